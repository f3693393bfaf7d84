"""What a test shows besides its scores: counts for curves, the worst mistakes, some features."""

from __future__ import annotations

from collections import deque
from typing import Any, Iterable, Iterator, NamedTuple

import mxnet as mx
import numpy as np

from dist_ft.data.loader import Batch
from dist_ft.evaluation.evaluator import Scores, evaluate
from dist_ft.evaluation.precision_recall import Thresholds
from dist_ft.evaluation.predictions import Prediction
from dist_ft.models import backbone

MOST_WORST = 16  # mistakes
MOST_POINTS = 1000  # images whose features are kept


class Point(NamedTuple):
    """A test image between the features and the head."""

    guess: Prediction
    features: np.ndarray  # (dimensions,) float32


class Evidence(NamedTuple):
    """Of all ranks."""

    thresholds: Thresholds
    worst: list[Prediction]  # mistakes, the label's smallest probability first


class Witness:
    """Tests a network, and keeps of the last test what a picture can be made of.

    core: the network, whose features can be seen if its head is one dense layer; net: what maps
    uint8 pixels to its logits.
    """

    def __init__(self, core: mx.gluon.HybridBlock, net: mx.gluon.HybridBlock, num_classes: int):
        self._below, self._above = backbone.feature_extractor(core), net
        if self._below is not None:
            self._above = backbone.head(core)
        self._num_classes = num_classes
        self.points: list[Point] = []  # this rank's, of up to MOST_POINTS on all

    def test(self, feed: Any, world: Any) -> tuple[Scores, Evidence]:
        """Scores on the feed's test images, pixels or features, and what else they show; the same
        on all ranks, which all call it."""
        thresholds, worst = Thresholds(self._num_classes), []
        self.points, self._passing = [], deque()
        kept = set(spread(len(feed.dataset.test), MOST_POINTS).tolist())

        def watch(batch: Batch, predicted: np.ndarray, _: np.ndarray, p: np.ndarray) -> None:
            real = np.flatnonzero(batch.mask)
            thresholds.add(batch.labels[real], p[real])
            wrong = real[predicted[real] != batch.labels[real]]
            worst.extend(_guesses(wrong, batch, predicted, p))
            worst.sort(key=_badness)
            del worst[MOST_WORST:]
            if self._below is not None:
                rows = [row for row in real if int(batch.indices[row]) in kept]
                passed = self._passing.popleft().asnumpy()  # long past, as the batch is
                guesses = _guesses(rows, batch, predicted, p)
                self.points += map(Point, guesses, passed[rows])

        scores = evaluate(self._net, feed.test(), self._num_classes, world, watch)
        everyones = [guess for theirs in world.gather(worst) for guess in theirs]
        evidence = Evidence(
            thresholds.over_ranks(world), sorted(everyones, key=_badness)[:MOST_WORST]
        )
        return scores, evidence

    def _net(self, x: mx.nd.NDArray) -> mx.nd.NDArray:
        """Logits; what passes from the features to the head is remembered."""
        if self._below is None:
            return self._above(x)
        features = self._below(x) if x.dtype == np.uint8 else x
        self._passing.append(features.astype("float32").reshape((len(features), -1)))
        return self._above(features)


def spread(num_images: int, most: int) -> np.ndarray:
    """Indices of at most so many images, evenly over all of them, and so over their classes."""
    num = min(num_images, most)
    return np.arange(num) * num_images // max(num, 1)


def _badness(guess: Prediction) -> tuple[float, int]:
    return guess.p_label, guess.index


def _guesses(
    rows: Iterable[int], batch: Batch, predicted: np.ndarray, p: np.ndarray
) -> Iterator[Prediction]:
    for row in rows:
        label, taken = int(batch.labels[row]), int(predicted[row])
        yield Prediction(
            int(batch.indices[row]), label, taken, float(p[row, taken]), float(p[row, label])
        )
