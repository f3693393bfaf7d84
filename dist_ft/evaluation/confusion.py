"""What a confusion matrix says: each class's scores, and what is mistaken for what.

A matrix is (C, C): images of class [row] that were taken for [column].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ClassScores(NamedTuple):
    """Of each class, (C,); 0 where there is nothing to divide by."""

    precision: np.ndarray  # of the images taken for it, the share that are of it
    recall: np.ndarray  # of its images, the share taken for it
    f1: np.ndarray  # the harmonic mean of the two
    support: np.ndarray  # how many images it has
    taken: np.ndarray  # how many are taken for it

    @property
    def macro_f1(self) -> float:
        """The mean of the classes that have images."""
        tested = self.support > 0
        return float(self.f1[tested].mean()) if tested.any() else 0.0


def by_class(matrix: np.ndarray) -> ClassScores:
    right, support, taken = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return ClassScores(
        right / np.maximum(taken, 1),
        right / np.maximum(support, 1),
        2 * right / np.maximum(taken + support, 1),
        support,
        taken,
    )


class Pair(NamedTuple):
    label: int
    predicted: int
    num_images: int


def most_confused(matrix: np.ndarray, most: int) -> list[Pair]:
    """The pairs of classes that are most often mistaken, at most so many, the most frequent first;
    the earlier classes first among equals."""
    wrong = _wrong(matrix)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    found = [Pair(int(row), int(column), int(wrong[row, column])) for row, column in pairs]
    return [pair for pair in found if pair.num_images]


def of_each_class(matrix: np.ndarray) -> list[Pair]:
    """What each class is most often taken for; no image of it where it never is."""
    wrong = _wrong(matrix)
    columns = enumerate(wrong.argmax(axis=1).tolist())
    return [Pair(row, column, int(wrong[row, column])) for row, column in columns]


def _wrong(matrix: np.ndarray) -> np.ndarray:
    return matrix - np.diag(matrix.diagonal())
