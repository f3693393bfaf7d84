"""What a batch is trained to predict: labels with smoothing, mixing and class weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Sequence

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
    2016, section 7). class_weights: of C classes, see class_weights.py; None: all are 1.
    """

    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None

    def apply(
        self,
        labels: np.ndarray,
        mask: np.ndarray,
        num_classes: int,
        partner_share: np.ndarray | None = None,
    ) -> Targets:
        """labels: (n,) int; mask: (n,) of 0 for padding and unreadable images, else 1;
        partner_share: (n,) share of row ^ 1 in each row; None: nothing is mixed."""
        rows, class_weights = np.arange(len(labels)), self._weights(num_classes)
        main_labels, shares = labels, np.zeros((len(labels), num_classes))
        shares[rows, labels] = mask
        if partner_share is not None:
            partners, share = labels[rows ^ 1], partner_share.astype(np.float64)
            shares[rows, labels] -= share  # which is 0 where the mask is
            shares[rows, partners] += share
            main_labels = np.where(share > 0.5, partners, labels)
        shares *= class_weights
        weights = shares.sum(axis=1)
        s = self.label_smoothing
        values = (1 - s) * shares + s / num_classes * weights[:, None]
        return Targets(
            values.astype(np.float32),
            np.where(mask > 0, main_labels, -1).astype(np.int32),
            float(weights.sum()),
        )

    def _weights(self, num_classes: int) -> np.ndarray:
        return np.ones(num_classes) if self.class_weights is None else np.array(self.class_weights)
