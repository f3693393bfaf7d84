"""Predicts the classes of unlabeled images, in their order, on any number of ranks."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import simplejpeg
from scipy import special

from dist_ft import files
from dist_ft.data import sampler
from dist_ft.data.dataset import Split
from dist_ft.data.loader import Batch, Loader
from dist_ft.data.rank_batches import TEST_BATCH_SIZE
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import Network, forward
from dist_ft.inference import heatmap
from dist_ft.inference.inputs import PREFETCH_MB, UnlabeledImages
from dist_ft.inference.outputs import ImageOutputs, Outputs
from dist_ft.inference.trained_model import TrainedModel
from dist_ft.inference.writers import Row

MAX_NAME_BYTES = 100  # of an image's name, in the name of its thumbnail

NOT_FINITE = "the network gives NaN or infinity for it"


def predict(
    net: Network,
    model: TrainedModel,
    paths: Sequence[str],
    world: World,
    top: int = 1,
    num_workers: int = 1,
    thumbnails: Path | None = None,
    outputs: Outputs | None = None,
) -> Iterator[list[Row]]:
    """Yields the rows of all images in order, part by part; the same on all ranks.

    net: `model.network(world)`; top: labels per image; num_workers: decoding threads;
    thumbnails: a folder for the images as the network gets them; outputs: of a network that gives
    more than logits. Its features are in the rows, its class-activation maps in the thumbnails.
    """
    outputs = outputs or Outputs(model)
    images = UnlabeledImages(paths, model.spec)
    split = Split(Path(), tuple(paths), (0,) * len(paths), ())
    shares = sampler.sequential_shares(len(paths), TEST_BATCH_SIZE, world.rank, world.size)
    with closing(Loader(split, model.spec.side, num_workers, PREFETCH_MB)) as loader:
        batches = loader.batches(shares, images.fill)
        for output, batch in forward(net, batches, world, "prediction"):
            found = outputs.divide(output)
            rows = _rows(batch, found, images, model.classes, top)
            if thumbnails:
                _write_thumbnails(rows, batch.x, found.maps, thumbnails)
            for part in world.gather(rows):
                rows.update(part)
            yield [rows[index] for index in sorted(rows)]


def check_options(model: TrainedModel, top: int, out: Path | None, explain: bool) -> None:
    """Raises UserError for options of `predict` that are bound to fail."""
    if explain and not out:
        raise UserError("--explain: draws on the thumbnails of --out; add --out DIR")
    if top > len(model.classes):
        raise UserError(f"--top {top}: {model.path} has {len(model.classes)} classes")
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: not an empty folder; choose another")


def _rows(
    batch: Batch, found: ImageOutputs, images: UnlabeledImages, classes: Sequence[str], top: int
) -> dict[int, Row]:
    """A row for each image of the batch by its index, in the batch's order."""
    rows, indices = {}, batch.indices.tolist()
    probabilities = special.softmax(found.logits.astype(np.float64), axis=1)
    order = np.argsort(-found.logits, axis=1, kind="stable")[:, :top]
    all_features = found.features if found.features.size else [None] * len(indices)
    for index, row, likeliest, features in zip(indices, probabilities, order, all_features):
        if index in images.errors:
            rows[index] = Row(images.paths[index], (), images.errors[index])
        elif index >= 0 and not np.isfinite(row).all():
            rows[index] = Row(images.paths[index], (), NOT_FINITE)
        elif index >= 0:
            labels = tuple((classes[k], float(row[k])) for k in likeliest)
            rows[index] = Row(images.paths[index], labels, features=features)
    return rows


def _write_thumbnails(
    rows: dict[int, Row], pixels: np.ndarray, maps: np.ndarray, folder: Path
) -> None:
    """FOLDER/LABEL/PROBABILITY-INDEX-NAME.jpg, so that the least certain come first."""
    # Padding is at the end of the batch.
    for (index, row), image, class_map in zip(rows.items(), pixels, maps):
        if row.error:
            continue
        if class_map.size:
            image = np.hstack([image, heatmap.overlay(image, class_map)])
        label, probability = row.top[0]
        subfolder = label.replace("/", "_") if label.strip(".") else f"_{label}"
        stem = os.fsencode(Path(row.path).stem)[:MAX_NAME_BYTES].decode("utf-8", "ignore")
        name = f"{subfolder}/{probability:.3f}-{index:06}-{stem}.jpg"
        path = folder / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        with files.output_file(path, "--out") as temporary:
            temporary.write_bytes(simplejpeg.encode_jpeg(image, quality=90))
