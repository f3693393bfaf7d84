"""Whether a classifier's probability is how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_BINS = 15  # of equal width, as Guo et al. 2017 have them


class Reliability(NamedTuple):
    """Sums over the images of each bin of confidence, (NUM_BINS,) float64."""

    num_images: np.ndarray
    correct: np.ndarray
    confidence_sum: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy - confidence| of a bin, averaged over images
        (Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3)."""
        total = max(1.0, float(self.num_images.sum()))
        return float(np.abs(self.correct - self.confidence_sum).sum()) / total


def reliability(
    is_right: np.ndarray, confidence: np.ndarray, weights: np.ndarray | None = None
) -> Reliability:
    """(n,) each; a bin holds the confidences from above its lower end up to its upper one.

    confidence: 0..1; weights: how often each image counts, else once.
    """
    weights = np.ones(len(confidence)) if weights is None else weights
    bins = np.ceil(confidence.astype(np.float64) * NUM_BINS).astype(int) - 1
    bins = np.clip(
        bins, 0, NUM_BINS - 1
    )  # 0 is in the first; rounding may bring 1 to a little more
    sums = (weights, weights * is_right, weights * confidence)
    return Reliability(*(np.bincount(bins, each, NUM_BINS) for each in sums))
