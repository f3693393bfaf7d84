"""What a confusion matrix says: intervals, scores of each class, what is taken for what."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Z = 1.959964  # 97.5 % of a normal distribution lie below so many standard deviations


def wilson(correct: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of a share, 0..1: all of it where there are no images.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", J. Am.
    Stat. Assoc. 22, without a correction for continuity. It treats the images as independent.
    """
    if not num_images:
        return 0.0, 1.0
    share, square = correct / num_images, Z * Z / num_images
    middle = share + square / 2
    half = Z * math.sqrt(share * (1 - share) / num_images + square / num_images / 4)
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, low), min(1.0, high)


class ClassScore(NamedTuple):
    """Counts of one class, and what follows from them; nan where nothing does."""

    label: int
    num_images: int
    num_taken: int  # images of any class that were taken for it
    correct: int

    @property
    def recall(self) -> float:
        return _share(self.correct, self.num_images)

    @property
    def precision(self) -> float:
        return _share(self.correct, self.num_taken)

    @property
    def f1(self) -> float:
        return _share(2 * self.correct, self.num_images + self.num_taken)


def of_classes(confusion: np.ndarray) -> list[ClassScore]:
    """confusion: (C, C), images of class [row] that were taken for [column]."""
    counts = zip(confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal())
    return [ClassScore(label, *map(int, three)) for label, three in enumerate(counts)]


class Confusion(NamedTuple):
    label: int
    taken_for: int
    num_images: int


def most_confused(confusion: np.ndarray, most: int) -> list[Confusion]:
    """The pairs of classes that are most often mistaken, at most so many, the most frequent first;
    the earlier classes first among equals."""
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    found = [Confusion(int(row), int(column), int(wrong[row, column])) for row, column in pairs]
    return [pair for pair in found if pair.num_images]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
