"""Caches the features of a frozen backbone on disk, so that an epoch trains the head alone.

The features of an image change only with its augmentation. All ranks together compute them once for
a few views (a view is one augmentation of all training images), which the epochs use in turn, and
so do the repetitions of an image within an epoch. Every host keeps them in a file whose name
contains a digest of all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, NamedTuple

import mxnet as mx
import numpy as np

from dist_ft.data import locked_files, sampler
from dist_ft.data.dataset import Split
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import RankBatches
from dist_ft.distributed.world import World
from dist_ft.evaluation.evaluator import forward
from dist_ft.files import atomic_file, user_errors

logger = logging.getLogger(__name__)

Unreadable = Dict[str, Dict[str, str]]  # by split and path: what is wrong


class CachedFeatures(NamedTuple):
    """Memory-mapped arrays of rows with 'x', float32, and 'mask', 0 for an unreadable image."""

    views: list[np.ndarray]  # of the training images, in their order
    held_out: dict[str, np.ndarray]  # of the images of val and test
    unreadable: Unreadable


class FeatureBatches:
    """The batches of `RankBatches` with cached features instead of pixels."""

    def __init__(self, batches: RankBatches, features: CachedFeatures):
        self._batches, self._features, self.dataset = batches, features, batches.dataset
        self.loaders, self.train_loader = batches.loaders, batches.train_loader
        # Rank 0 reports the unreadable images of all ranks, so that each is counted once.
        for name, loader in self.loaders.items():
            loader.unreadable = features.unreadable[name] if batches.rank == 0 else {}

    def train(self, epoch: int, slices: Iterable[slice]) -> Iterator[Batch]:
        """Batches of the epoch's steps; each slice selects a step's images from its order."""
        views, shares = self._features.views, self._batches.train_shares(epoch, slices)
        shifted = [views[(epoch + number) % len(views)] for number in range(len(views))]
        return self._batches.with_targets(_select(shifted, self.dataset.train, shares))

    def in_order(self, split: str) -> Iterator[Batch]:
        """Batches of the images of 'val' or 'test' in order."""
        rows, images = self._features.held_out[split], self.dataset.splits[split]
        return _select([rows], images, self._batches.shares_in_order(split))

    def close(self) -> None:
        self._batches.close()


def _select(
    views: list[np.ndarray], split: Split, shares: Iterable[sampler.Share]
) -> Iterator[Batch]:
    """A batch for each share; an image that repeats in an epoch is taken from one view after the
    other."""
    labels = np.array(split.labels, np.int32)
    for samples, mask in shares:  # -1 selects some row; its mask is 0, as for any padding
        repetitions, indices = np.divmod(samples, len(split))
        selected = views[0][indices]
        for row in np.flatnonzero(repetitions > 0):
            selected[row] = views[repetitions[row] % len(views)][indices[row]]
        yield Batch(
            np.ascontiguousarray(selected["x"]),
            labels[indices],
            mask * selected["mask"],
            np.where(mask > 0, indices, -1),
        )


def load_or_compute(
    extractor: mx.gluon.Block,
    batches: RankBatches,
    num_views: int,
    settings: Any,
    cache_dir: Path,
    world: World,
) -> CachedFeatures:
    """The features of every training image in `num_views` augmentations, and of all other images.

    extractor: maps (n, side, side, 3) uint8 to features; settings: what the features depend on
    besides the images and the extractor's parameters, as JSON. All ranks must call this. Raises
    UserError if `cache_dir` cannot be written.
    """
    dataset = batches.dataset
    num_held_out = {n: len(split) for n, split in dataset.splits.items() if n != "train"}
    with world.raise_on_all_ranks():
        digest = _digest(extractor, batches, [num_views, batches.augmentation, settings])
    path = cache_dir / f"features-{digest}.npy"
    if not all(world.gather(path.exists())):
        if world.is_main:
            others = "".join(f", {num} {name} images" for name, num in num_held_out.items())
            logger.info(
                f"computing features once: {len(dataset.train)} training images in {num_views}"
                f" augmentations{others}"
            )
        _compute(extractor, batches, num_views, path, world)
    with world.raise_on_all_ranks():
        rows = np.load(path, mmap_mode="r")
        unreadable = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if world.is_main:
        logger.info(f"features: {rows.nbytes / 1e6:,.0f} MB in {path}")
    lengths = [len(dataset.train)] * num_views + [*num_held_out.values()]
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    held_out = dict(zip(num_held_out, parts[num_views:]))
    return CachedFeatures(parts[:num_views], held_out, unreadable)


def _digest(extractor: mx.gluon.Block, batches: RankBatches, settings: Any) -> str:
    stamps = [split.stamp() for split in batches.dataset.splits.values()]
    digest = hashlib.sha256(json.dumps([*settings, stamps], sort_keys=True).encode())
    for _, parameter in sorted(extractor.collect_params().items()):
        digest.update(parameter.data().asnumpy().tobytes())
    return digest.hexdigest()[:16]


def _compute(
    extractor: mx.gluon.Block, batches: RankBatches, num_views: int, path: Path, world: World
) -> None:
    """Computes all features on all ranks, and writes them on the first rank of each host."""
    splits = batches.dataset.splits
    # (split, its batches), of which every rank has the same number
    parts: list[tuple[str, Iterable[Batch]]] = [
        ("train", batches.train_in_order(view)) for view in range(num_views)
    ]
    parts += [(name, batches.in_order(name)) for name in splits if name != "train"]
    unreadable: Unreadable = {name: {} for name in splits}
    rows = None
    with ExitStack() as unfinished:
        with world.raise_on_all_ranks(), _cache_errors(path):
            if world.local_rank == 0:
                blank = mx.nd.zeros(
                    (1, batches.spec.side, batches.spec.side, 3), world.ctx, "uint8"
                )
                x_type = ("x", np.float32, extractor(blank).shape[1:])
                num_rows = sum(len(splits[name]) for name, _ in parts)
                row_type = np.dtype([x_type, ("mask", np.float32)])
                rows = unfinished.enter_context(_new_file(path, num_rows, row_type))
        first_row = 0
        for split, part in parts:
            for indices, x, mask in _features_of_all_ranks(extractor, part, world):
                if rows is not None:
                    rows["x"][first_row + indices] = x
                    rows["mask"][first_row + indices] = mask
            first_row += len(splits[split])
            for messages in world.gather(dict(batches.loaders[split].unreadable)):
                unreadable[split].update(messages)
        with world.raise_on_all_ranks(), _cache_errors(path):
            if rows is not None:
                with atomic_file(path.with_suffix(".json")) as temporary:
                    temporary.write_text(json.dumps(unreadable), encoding="utf-8")
            unfinished.close()  # gives the file its name


def _features_of_all_ranks(
    extractor: mx.gluon.Block, batches: Iterable[Batch], world: World
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (indices, features, mask) of each rank's images in each batch, on all ranks."""
    for x, batch in forward(extractor, batches, world, "computing features"):
        real = batch.indices >= 0
        yield from world.gather((batch.indices[real], x[real], batch.mask[real]))


@contextmanager
def _new_file(path: Path, num_rows: int, row_type: np.dtype) -> Iterator[np.ndarray]:
    """Yields the rows of a new .npy file; it gets its name when the body succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    locked_files.remove_abandoned(path.parent, ".features-*")
    with atomic_file(path) as temporary:
        rows = np.lib.format.open_memmap(str(temporary), "w+", row_type, (num_rows,))
        with open(temporary, "r+b") as file:  # on a full disk, writing to a mapping would be fatal
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        yield rows
        rows.flush()


def _cache_errors(path: Path):
    remedy = "free some space, choose another --cache-dir, or pass --views 0"
    return user_errors(f"--cache-dir {path.parent}", "cannot store features", remedy)
