"""Calibration: whether a classifier's probabilities match how often it is correct."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_BINS = 15  # of equal width, as in Guo et al. 2017


class Reliability(NamedTuple):
    """Sums over the images in each bin of confidence, (NUM_BINS,) float64."""

    num_images: np.ndarray
    correct: np.ndarray
    confidence_sum: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy - confidence| of a bin, averaged over images.

        Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
        """
        total = max(1.0, float(self.num_images.sum()))
        return float(np.abs(self.correct - self.confidence_sum).sum()) / total


def reliability(
    is_correct: np.ndarray, confidence: np.ndarray, weights: np.ndarray | None = None
) -> Reliability:
    """Sums by bin; a bin contains its upper end, and the first one also 0.

    is_correct, confidence: (n,), the latter the probability of the predicted class, 0..1;
    weights: (n,), how often each image counts (default: once).
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    bins = np.ceil(confidence.astype(np.float64) * NUM_BINS).astype(int) - 1
    bins = np.clip(bins, 0, NUM_BINS - 1)  # rounding may make a probability exceed 1
    return Reliability(
        np.bincount(bins, weights, NUM_BINS),
        np.bincount(bins, weights * is_correct, NUM_BINS),
        np.bincount(bins, weights * confidence, NUM_BINS),
    )
