"""How precision and recall of each class change with the probability that is asked for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

NUM_THRESHOLDS = 127  # 0, 1/126, ... 1: as many as TensorBoard's curves have


class Curve(NamedTuple):
    """Of one class, (NUM_THRESHOLDS,) each; images that reach the threshold are taken for it."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray
    precision: np.ndarray  # 0 where no image is taken for the class
    recall: np.ndarray  # 0 where no image is of it


class Thresholds:
    """Counts of images, integers that add up over the ranks: no probability crosses the network."""

    def __init__(self, num_classes: int):
        # [0: of another class, 1: of this one], class, largest threshold that its probability has
        self.counts = np.zeros((2, num_classes, NUM_THRESHOLDS), np.int64)

    def add(self, labels: np.ndarray, p: np.ndarray) -> None:
        """Counts images: labels (n,); p: (n, C), 0..1, their probabilities."""
        num_classes = p.shape[1]
        reached = (p.astype(np.float64) * (NUM_THRESHOLDS - 1)).astype(np.int64)
        reached = np.minimum(reached, NUM_THRESHOLDS - 1)  # rounding may bring 1 to a little more
        is_own = labels[:, None] == np.arange(num_classes)
        places = (is_own * num_classes + np.arange(num_classes)) * NUM_THRESHOLDS + reached
        counts = np.bincount(places.ravel(), minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)

    def over_ranks(self, world: Any) -> Thresholds:
        """The counts of all ranks' images, in one reduction."""
        found = Thresholds(self.counts.shape[1])
        found.counts += world.sum(self.counts.ravel()).astype(np.int64).reshape(self.counts.shape)
        return found

    def curve(self, label: int) -> Curve:
        false_positives, true_positives = (
            counts[::-1].cumsum()[::-1] for counts in self.counts[:, label]
        )
        taken, own = true_positives + false_positives, true_positives[0]
        return Curve(
            true_positives,
            false_positives,
            false_positives[0] - false_positives,
            own - true_positives,
            true_positives / np.maximum(taken, 1),
            true_positives / max(own, 1),
        )
