"""What is mistaken for what, and between which bounds a share of few images lies."""

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


class Confusion(NamedTuple):
    label: int
    taken_for: int
    num_images: int


def most_confused(confusion: np.ndarray, most: int) -> list[Confusion]:
    """The pairs of classes that are most often mistaken, at most so many, the most frequent first;
    the earlier classes first among equals.

    confusion: (C, C), images of class [row] that were taken for [column].
    """
    wrong = _wrong(confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    found = [Confusion(int(row), int(column), int(wrong[row, column])) for row, column in pairs]
    return [pair for pair in found if pair.num_images]


def of_each_class(confusion: np.ndarray) -> list[Confusion]:
    """What each class is most often taken for; no image of it where it never is."""
    wrong = _wrong(confusion)
    columns = enumerate(wrong.argmax(axis=1).tolist())
    return [Confusion(row, column, int(wrong[row, column])) for row, column in columns]


def _wrong(confusion: np.ndarray) -> np.ndarray:
    return confusion - np.diag(confusion.diagonal())
