"""What counts say of a classifier: each class's scores, calibration, how sure an accuracy is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

NUM_BINS = 15  # of equal width, as Guo et al. 2017 have them
SURE = 0.95


class ClassScores(NamedTuple):
    """Of each class, (C,); 0 where there is nothing to divide by."""

    precision: np.ndarray  # of the images taken for it, the share that are of it
    recall: np.ndarray  # of its images, the share taken for it
    f1: np.ndarray  # the harmonic mean of the two
    support: np.ndarray  # how many images it has


def by_class(confusion: np.ndarray) -> ClassScores:
    """confusion: (C, C), images of class [row] that were taken for [column]."""
    right, support, taken = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        right / np.maximum(taken, 1),
        right / np.maximum(support, 1),
        2 * right / np.maximum(taken + support, 1),
        support,
    )


def interval(correct: int, num_images: int) -> tuple[float, float]:
    """Between which accuracies 95 % of the bootstrap's samples of the images lie (Efron 1979).

    Of n images drawn with replacement, where k of n are right, a binomial number is right: these
    are its percentiles, which any finite number of draws only comes near to. Where all are right,
    or none is, every sample says so too, and the interval has no width.
    """
    if correct in (0, num_images):
        return (correct / max(1, num_images),) * 2
    ends = stats.binom.ppf([(1 - SURE) / 2, (1 + SURE) / 2], num_images, correct / num_images)
    low, high = ends / num_images
    return float(low), float(high)


class Calibration:
    """Whether a probability is how often the classifier is right: sums in bins of confidence."""

    def __init__(self):
        self.num_images, self.correct, self.confidence_sum = np.zeros((3, NUM_BINS))

    def add(self, right: np.ndarray, confidence: np.ndarray) -> None:
        """(n,) each; a bin holds the confidences from above its lower end up to its upper one."""
        bins = np.clip(np.ceil(confidence.astype(np.float64) * NUM_BINS).astype(int) - 1, 0, None)
        bins = np.minimum(bins, NUM_BINS - 1)  # rounding may bring 1 to a little more
        np.add.at(self.num_images, bins, 1)
        np.add.at(self.correct, bins, right)
        np.add.at(self.confidence_sum, bins, confidence)

    def over_ranks(self, world: Any) -> Calibration:
        """The sums of all ranks' images, in one reduction."""
        found = Calibration()
        sums = world.sum(np.concatenate([self.num_images, self.correct, self.confidence_sum]))
        found.num_images, found.correct, found.confidence_sum = sums.reshape(3, NUM_BINS)
        return found

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy - confidence| of a bin, averaged over images
        (Guo et al. 2017, equation 3)."""
        total = max(1.0, float(self.num_images.sum()))
        return float(np.abs(self.correct - self.confidence_sum).sum()) / total
