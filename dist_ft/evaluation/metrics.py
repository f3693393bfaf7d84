"""Metrics of a network's outputs, accumulated by batch and reduced over the ranks once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from dist_ft.distributed.world import World

TOP_K = 5
NUM_THRESHOLDS = 127  # 0, 1/126, ... 1: as many as TensorBoard's curves have
MAX_FEATURES = 1000


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for n images, all finite, without padding and unreadable images."""

    indices: np.ndarray  # (n,) int64: the image's position in its split
    labels: np.ndarray  # (n,) int64
    logits: np.ndarray  # (n, C) float64
    features: np.ndarray  # (n, D) float32: the input of the last layer; D is 0 without features

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """(n, C) float64."""
        return special.log_softmax(self.logits, axis=1)

    @property
    def probabilities(self) -> np.ndarray:
        """(n, C) float64, 0..1."""
        return np.exp(self.log_probabilities)

    @property
    def predicted(self) -> np.ndarray:
        """(n,) int64: the class of the largest logit, the first of equal ones."""
        return self.logits.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """(n,) float64: the cross entropy."""
        return -pick(self.log_probabilities, self.labels)


def pick(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n,): one column of each row of (n, C)."""
    return values[np.arange(len(values)), columns]


class Metric(Protocol):
    """Accumulates the outputs of this rank's batches."""

    def add(self, outputs: Outputs) -> None:
        """Adds a batch."""

    def reduce(self, world: World) -> None:
        """Replaces this rank's values by those of all ranks; all ranks call it, once."""


@dataclass
class Scores:
    """Exact sums over images that no rank drops or repeats; the properties divide them."""

    num_images: int
    correct: int
    correct_top5: int
    loss_sum: float
    confusion: np.ndarray  # (C, C) int64: images of class [row] that were predicted as [column]

    @classmethod
    def zero(cls, num_classes: int) -> Scores:
        return cls(0, 0, 0, 0.0, np.zeros((num_classes, num_classes), np.int64))

    def add(self, outputs: Outputs) -> None:
        labels, logits = outputs.labels, outputs.logits
        num_larger_logits = (logits > pick(logits, labels)[:, None]).sum(axis=1)
        self.num_images += len(labels)
        self.correct += int((labels == outputs.predicted).sum())
        self.correct_top5 += int((num_larger_logits < TOP_K).sum())
        self.loss_sum += float(outputs.losses.sum())
        np.add.at(self.confusion, (labels, outputs.predicted), 1)

    def reduce(self, world: World) -> None:
        """Sums over the ranks, in one reduction; exact for integers up to 2**53."""
        values = [self.num_images, self.correct, self.correct_top5, self.loss_sum]
        total = world.sum(np.concatenate([values, self.confusion.ravel()]))
        self.num_images, self.correct, self.correct_top5 = (int(count) for count in total[:3])
        self.loss_sum = float(total[3])
        self.confusion = total[4:].astype(np.int64).reshape(self.confusion.shape)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.num_images)

    @property
    def accuracy_top5(self) -> float:
        return self.correct_top5 / max(1, self.num_images)

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.num_images)


class Curve(NamedTuple):
    """Of one class, (NUM_THRESHOLDS,) each: a probability >= the threshold predicts the class."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray
    precision: np.ndarray  # 0 if no image reaches the threshold
    recall: np.ndarray  # 0 if no image has this label


class PrecisionRecall:
    """Counts of images by probability, for the precision and recall of each class."""

    def __init__(self, num_classes: int):
        # [0: other label, 1: this label], class, largest threshold that the probability reaches
        self.counts = np.zeros((2, num_classes, NUM_THRESHOLDS), np.int64)

    def add(self, outputs: Outputs) -> None:
        self.add_probabilities(outputs.labels, outputs.probabilities)

    def add_probabilities(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """labels: (n,); probabilities: (n, C), 0..1."""
        thresholds = (probabilities.astype(np.float64) * (NUM_THRESHOLDS - 1)).astype(np.int64)
        thresholds = np.minimum(thresholds, NUM_THRESHOLDS - 1)  # rounding may exceed 1
        classes = np.arange(probabilities.shape[1])
        is_label = (labels[:, None] == classes).astype(int)
        cells = np.ravel_multi_index((is_label, classes, thresholds), self.counts.shape)
        counts = np.bincount(cells.ravel(), minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)

    def reduce(self, world: World) -> None:
        total = world.sum(self.counts.ravel())
        self.counts = total.astype(np.int64).reshape(self.counts.shape)

    def curve(self, label: int) -> Curve:
        false_positives, true_positives = self.counts[:, label, ::-1].cumsum(axis=1)[:, ::-1]
        num_positive, num_negative = true_positives[0], false_positives[0]
        return Curve(
            true_positives,
            false_positives,
            num_negative - false_positives,
            num_positive - true_positives,
            true_positives / np.maximum(true_positives + false_positives, 1),
            true_positives / max(num_positive, 1),
        )


class FeatureSample:
    """Features of at most `max_images` of `num_images`, evenly spaced and so over all classes."""

    def __init__(self, num_images: int, max_images: int = MAX_FEATURES):
        num = min(num_images, max_images)
        self._selected = np.arange(num) * num_images // max(num, 1)
        self._features: dict[int, np.ndarray] = {}  # (D,), by the image's index

    def add(self, outputs: Outputs) -> None:
        if outputs.features.size:
            for row in np.flatnonzero(np.isin(outputs.indices, self._selected)):
                self._features[int(outputs.indices[row])] = outputs.features[row].copy()

    def reduce(self, world: World) -> None:
        for features in world.gather(self._features):
            self._features.update(features)

    @property
    def indices(self) -> np.ndarray:
        """(n,) int64, ascending; empty if the network has no features."""
        return np.array(sorted(self._features), np.int64)

    @property
    def features(self) -> np.ndarray:
        """(n, D) float32, in the order of `indices`."""
        return np.array([self._features[index] for index in self.indices.tolist()], np.float32)
