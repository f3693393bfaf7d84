"""What the frozen part of a network says of each image, computed once and kept.

Where only the head learns, an image's features change with its augmentation alone: those of a fixed
set of views are computed before the first step, shared out over the ranks, and kept on disk under a
key of all that they depend on. An epoch's steps then take milliseconds.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import mxnet as mx
import numpy as np

from dist_ft.data import pixel_file, sampler
from dist_ft.data.dataset import Split
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import RankBatches
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import DelayedReader

GATHERED = 2000  # images whose features cross the network at once


@dataclass
class Source:
    """As a Loader to those who ask what was unreadable, and how long they waited: not at all."""

    split: Split
    unreadable: dict[str, str] = field(default_factory=dict)
    waited_s: float = 0.0


class Kept(NamedTuple):
    """Features on disk, mapped: (images,) of 'x', float32, and 'mask', 0 for an unreadable one."""

    views: list[np.ndarray]  # of the training images
    test: np.ndarray
    bad: list[dict[str, str]]  # of train and of test: what is wrong with each, by path


class FeatureBatches:
    """As RankBatches, with an image's features for its pixels; views take turns, an epoch each."""

    def __init__(self, feed: RankBatches, kept: Kept):
        self._feed, self._kept, self.dataset = feed, kept, feed.dataset
        splits = feed.dataset.train, feed.dataset.test
        self.train_loader, self.test_loader = (
            Source(split, bad if feed.rank == 0 else {}) for split, bad in zip(splits, kept.bad)
        )

    def train(self, epoch: int, slices: Iterable[slice]) -> Iterator[Batch]:
        view = self._kept.views[epoch % len(self._kept.views)]
        return _batches(self._feed.dataset.train, view, self._feed.train_shares(epoch, slices))

    def test(self) -> Iterator[Batch]:
        return _batches(self._feed.dataset.test, self._kept.test, self._feed.test_shares())

    def close(self) -> None:
        self._feed.close()


def _batches(split: Split, kept: np.ndarray, shares: Iterable[sampler.Share]) -> Iterator[Batch]:
    labels = np.array(split.labels, np.int32)
    for indices, mask in shares:
        rows = kept[indices]  # index -1, padding without an image, has a mask of 0 like any padding
        yield Batch(
            np.ascontiguousarray(rows["x"]),
            labels[indices],
            mask * rows["mask"],
            np.where(mask > 0, indices, -1),
        )


def obtain(
    net: mx.gluon.Block,
    feed: RankBatches,
    num_views: int,
    made_of: Any,
    kept_in: Path,
    world: Any,
    say: Callable[[str], None],
) -> Kept:
    """The features of each training image in `num_views` augmentations, and of each test image.

    net: (n, side, side, 3) uint8 to features; made_of: what these depend on besides the images and
    the network's parameters, as JSON keeps it. Raises UserError where `kept_in` cannot be written.
    """
    with world.raise_on_all_ranks():
        place = kept_in / f"features-{_key(net, feed, num_views, made_of)}"
    if not all(world.gather(place.exists())):
        say(
            f"computing features, once: of {len(feed.dataset.train)} images to train on in"
            f" {num_views} augmentations, of {len(feed.dataset.test)} to test on"
        )
        _compute(net, feed, num_views, place, world)
    with world.raise_on_all_ranks():
        *views, test = (
            np.load(place / f"{number}.npy", mmap_mode="r") for number in range(num_views + 1)
        )
        bad = json.loads((place / "bad.json").read_text(encoding="utf-8"))
    say(f"features: {sum(part.nbytes for part in (*views, test)) / 1e6:,.0f} MB in {place}")
    return Kept(views, test, bad)


def _key(net: mx.gluon.Block, feed: RankBatches, num_views: int, made_of: Any) -> str:
    stamps = feed.dataset.train.stamp(), feed.dataset.test.stamp()
    digest = hashlib.sha256(json.dumps([num_views, made_of, stamps], sort_keys=True).encode())
    for _, parameter in sorted(net.collect_params().items()):
        digest.update(parameter.data().asnumpy().tobytes())
    return digest.hexdigest()[:16]


def _compute(
    net: mx.gluon.Block, feed: RankBatches, num_views: int, place: Path, world: Any
) -> None:
    """Writes the folder of an `obtain`, on each host; whole or absent."""
    writes = world.local_rank == 0
    beside = place
    bad: list[dict[str, str]] = [{}, {}]
    with ExitStack() as unfinished:
        with world.raise_on_all_ranks(), _written_to(place):
            if writes:
                beside = unfinished.enter_context(_beside(place))
        for number in range(num_views + 1):
            is_test = number == num_views
            world.heartbeat(f"features of {'the test images' if is_test else f'view {number}'}")
            batches = feed.test() if is_test else feed.train_in_order(number)
            x, mask = _forward(net, batches, world)
            loader = feed.test_loader if is_test else feed.train_loader
            for theirs in world.gather(dict(loader.unreadable)):
                bad[is_test].update(theirs)
            _gather(x, mask, len(loader.split), beside / f"{number}.npy", writes, world)
        with world.raise_on_all_ranks(), _written_to(place):
            if writes:
                (beside / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
                _rename(beside, place)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder that is locked, and removed unless it was renamed."""
    pixel_file.remove_abandoned(place.parent, ".features-*")
    beside, lock = pixel_file.create_locked(place, partial(Path.mkdir, parents=True))
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(lock)


def _rename(beside: Path, place: Path) -> None:
    try:
        beside.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another run, of the same, first
            raise


def _forward(
    net: mx.gluon.Block, batches: Iterable[Batch], world: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Features and masks of this rank's rows."""
    rows, behind = [], DelayedReader()
    for batch in batches:
        world.heartbeat("features")
        rows += behind.push(net(batch.on(world.ctx)[0]).astype("float32"), batch.mask)
    rows += behind.rest()
    return tuple(np.concatenate(part) for part in zip(*rows))


def _gather(
    x: np.ndarray, mask: np.ndarray, num_images: int, file: Path, writes: bool, world: Any
) -> None:
    """Brings all ranks' rows to each host, in the images' order: every size-th is a rank's."""
    kept = None
    step = max(1, GATHERED // world.size)
    for start in range(0, len(x), step):
        world.heartbeat("gathering features")
        everyones = world.gather((x[start : start + step], mask[start : start + step]))
        with world.raise_on_all_ranks(), _written_to(file):
            if not writes:
                continue
            if kept is None:
                row = np.dtype([("x", np.float32, x.shape[1:]), ("mask", np.float32)])
                kept = np.lib.format.open_memmap(str(file), "w+", row, (num_images,))
            for rank, (theirs, masks) in enumerate(everyones):
                images = np.arange(start * world.size + rank, num_images, world.size)[: len(theirs)]
                kept["x"][images] = theirs[: len(images)]
                kept["mask"][images] = masks[: len(images)]
    if kept is not None:
        kept.flush()


@contextmanager
def _written_to(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"features cannot be kept in {place.parent} ({error.strerror}): make room, choose"
            " another --cache-dir, or --views 0"
        ) from error
