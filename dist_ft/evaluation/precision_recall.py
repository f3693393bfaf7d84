"""Precision and recall of each class as functions of the probability threshold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dist_ft.distributed.world import World
from dist_ft.evaluation.outputs import Outputs

NUM_THRESHOLDS = 127  # 0, 1/126, ... 1: as many as TensorBoard's curves have


class Curve(NamedTuple):
    """Of one class, (NUM_THRESHOLDS,) each: a probability >= the threshold predicts the class."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray
    precision: np.ndarray  # 0 if no image reaches the threshold
    recall: np.ndarray  # 0 if no image has this label


class PrecisionRecall:
    """Counts of images by probability: small integers that are summed over the ranks."""

    def __init__(self, num_classes: int):
        # [0: other label, 1: this label], class, largest threshold that the probability reaches
        self.counts = np.zeros((2, num_classes, NUM_THRESHOLDS), np.int64)

    def add(self, outputs: Outputs) -> None:
        self.add_probabilities(outputs.labels, outputs.probabilities)

    def add_probabilities(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """labels: (n,); probabilities: (n, C), 0..1."""
        num_classes = probabilities.shape[1]
        thresholds = (probabilities.astype(np.float64) * (NUM_THRESHOLDS - 1)).astype(np.int64)
        thresholds = np.minimum(thresholds, NUM_THRESHOLDS - 1)  # rounding may exceed 1
        is_label = labels[:, None] == np.arange(num_classes)
        cells = (is_label * num_classes + np.arange(num_classes)) * NUM_THRESHOLDS + thresholds
        counts = np.bincount(cells.ravel(), minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)

    def reduce(self, world: World) -> None:
        total = world.sum(self.counts.ravel())
        self.counts = total.astype(np.int64).reshape(self.counts.shape)

    def curve(self, label: int) -> Curve:
        false_positives, true_positives = (
            counts[::-1].cumsum()[::-1] for counts in self.counts[:, label]
        )
        num_positive, num_negative = true_positives[0], false_positives[0]
        return Curve(
            true_positives,
            false_positives,
            num_negative - false_positives,
            num_positive - true_positives,
            true_positives / np.maximum(true_positives + false_positives, 1),
            true_positives / max(num_positive, 1),
        )
