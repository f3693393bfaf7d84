"""Which test images a run gets wrong, and of which it is least certain, by its best checkpoint."""

from __future__ import annotations

import io
from typing import Any, Iterable, Iterator, NamedTuple

import mxnet as mx
import numpy as np
from PIL import Image

from dist_ft.config import Config
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.decoding import CorruptImage, decode
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.distributed import launcher
from dist_ft.errors import UserError
from dist_ft.evaluation.evaluator import DelayedReader
from dist_ft.inference import trained_model
from dist_ft.training.checkpoint import Checkpoint

THUMBNAIL_PX = 96  # the longer side


class Prediction(NamedTuple):
    """What the network says of a test image; probabilities are its softmax's, 0..1."""

    index: int
    label: int
    predicted: int
    p_taken: float
    p_label: float


class TestPredictions(NamedTuple):
    """Of all readable test images, in order."""

    folder: Dataset
    all: list[Prediction]
    is_the_runs: bool  # whether the images are those that the run was tested on

    def worst(self, most: int) -> list[Prediction]:
        """The wrong ones of the largest loss."""
        wrong = (guess for guess in self.all if guess.predicted != guess.label)
        return sorted(wrong, key=lambda guess: guess.p_label)[:most]

    def least_certain(self, most: int) -> list[Prediction]:
        """Those of the smallest largest probability, right and wrong."""
        return sorted(self.all, key=lambda guess: guess.p_taken)[:most]


def guess(best: Checkpoint, data: str, world: Any) -> TestPredictions:
    """Runs a checkpoint's network on the test images below `data`, as the training's tests do.

    Raises UserError where the images are not there or are of other classes.
    """
    found, folder = trained_model.find(str(best.path)), scan(data)
    if folder.classes != found.classes:
        raise UserError(f"{data}: has other classes than the run; name its images with --data DIR")
    net = found.network(world)
    feed = RankBatches(folder, found.views, 0, 0, 1, launcher.set_threads(), Config.prefetch_mb)
    guesses = list(_guesses(net, feed, world))
    feed.close()
    told = f"{len(folder.test)} of fingerprint {folder.test.fingerprint()}"
    return TestPredictions(folder, guesses, best.state["facts"].get("test images") == told)


def _guesses(net: mx.gluon.Block, feed: RankBatches, world: Any) -> Iterator[Prediction]:
    behind = DelayedReader()
    for batch in feed.test():
        world.heartbeat("the report's test images")
        x, labels, _ = batch.on(world.ctx)
        p = net(x).astype("float32").softmax()
        columns = mx.nd.stack(p.argmax(axis=1), p.max(axis=1), p.pick(labels))
        yield from _of_batches(behind.push(columns, batch))
    yield from _of_batches(behind.rest())


def _of_batches(finished: Iterable[tuple]) -> Iterator[Prediction]:
    for (predicted, p_taken, p_label), batch in finished:
        for row in np.flatnonzero(batch.mask):
            yield Prediction(
                int(batch.indices[row]),
                int(batch.labels[row]),
                int(predicted[row]),
                float(p_taken[row]),
                float(p_label[row]),
            )


def thumbnail(split: Split, index: int) -> bytes:
    """A JPEG of an image, at most THUMBNAIL_PX a side; grey where it can be read no more."""
    try:
        image = Image.fromarray(decode(split.read(index)))
    except (CorruptImage, OSError):
        image = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), "grey")
    # Twice as many pixels as are named, for the screens of phones.
    image.thumbnail((2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70, optimize=True)
    return file.getvalue()
