"""Metrics of a confusion matrix: precision, recall and F1 of each class, frequent mistakes.

A matrix is (C, C): images of class [row] that were predicted as [column].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ClassScores(NamedTuple):
    """Scores of each class, (C,); 0 where the denominator is 0."""

    precision: np.ndarray  # of the images predicted as the class, the share that belong to it
    recall: np.ndarray  # of the class's images, the share predicted as it
    f1: np.ndarray  # the harmonic mean of precision and recall
    support: np.ndarray  # images of the class
    num_predicted: np.ndarray  # images predicted as the class

    @property
    def macro_f1(self) -> float:
        """The mean over the classes that have images."""
        has_images = self.support > 0
        return float(self.f1[has_images].mean()) if has_images.any() else 0.0


def class_scores(confusion: np.ndarray) -> ClassScores:
    correct = np.diag(confusion)
    support, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        correct / np.maximum(num_predicted, 1),
        correct / np.maximum(support, 1),
        2 * correct / np.maximum(num_predicted + support, 1),
        support,
        num_predicted,
    )


class Mistake(NamedTuple):
    """A cell of the matrix off its diagonal."""

    label: int
    predicted: int
    num_images: int


def most_frequent_mistakes(confusion: np.ndarray, num: int) -> list[Mistake]:
    """At most `num` pairs of classes, the most frequently confused first."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:num]
    cells = zip(*np.unravel_index(order, wrong.shape))
    return [Mistake(int(k), int(c), int(wrong[k, c])) for k, c in cells if wrong[k, c]]


def most_frequent_mistake_by_class(confusion: np.ndarray) -> list[Mistake]:
    """What each class is most often mistaken for; num_images is 0 if it never is."""
    wrong = confusion - np.diag(np.diag(confusion))
    predicted = wrong.argmax(axis=1).tolist()
    return [Mistake(k, column, int(wrong[k, column])) for k, column in enumerate(predicted)]
