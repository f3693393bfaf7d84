"""What a batch is trained to predict: labels with smoothing, mixing and class weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Targets(NamedTuple):
    """Targets of n images of C classes."""

    values: np.ndarray  # (n, C) float32; the sum of a row is the weight of its image
    labels: np.ndarray  # (n,) int32: the label with the largest share; -1 if the image is masked
    weight_sum: float  # the number of images without class weights


@dataclass(frozen=True)
class TargetRule:
    """How labels become targets.

    label_smoothing: share of each target that is spread evenly over all classes (Szegedy et al.
    2016, section 7). class_weights: (C,) weights in the loss; None: all are 1.
    """

    label_smoothing: float = 0.0
    class_weights: np.ndarray | None = None

    def apply(self, labels: np.ndarray, mask: np.ndarray, num_classes: int) -> Targets:
        """labels: (n,) int; mask: (n,) of 0 for padding and unreadable images, else 1."""
        rows = np.arange(len(labels))
        shares = np.zeros((len(labels), num_classes))
        shares[rows, labels] = mask * self._weights(num_classes)[labels]
        weights = shares.sum(axis=1)
        s = self.label_smoothing
        values = (1 - s) * shares + s / num_classes * weights[:, None]
        return Targets(
            values.astype(np.float32),
            np.where(mask > 0, labels, -1).astype(np.int32),
            float(weights.sum()),
        )

    def _weights(self, num_classes: int) -> np.ndarray:
        return np.ones(num_classes) if self.class_weights is None else self.class_weights
