"""What a network computes for labelled images, and the metrics' common interface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import special

from dist_ft.distributed.world import World


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for n images. Padding and unreadable images are already left out."""

    indices: np.ndarray  # (n,) int64: the image's position in its split
    labels: np.ndarray  # (n,) int64
    logits: np.ndarray  # (n, C) float64
    features: np.ndarray  # (n, D) float32: the input of the last layer; D is 0 without features

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """(n, C) float64."""
        return special.log_softmax(self.logits, axis=1)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(n, C) float64, 0..1."""
        return np.exp(self.log_probabilities)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(n,) int64: the class of the largest logit, the first of equal ones."""
        return self.logits.argmax(axis=1)

    @property
    def losses(self) -> np.ndarray:
        """(n,) float64: the cross entropy."""
        return -_pick(self.log_probabilities, self.labels)

    @property
    def num_larger_logits(self) -> np.ndarray:
        """(n,) int64: how many classes have a larger logit than the label."""
        return (self.logits > _pick(self.logits, self.labels)[:, None]).sum(axis=1)

    @property
    def p_label(self) -> np.ndarray:
        """(n,) float64: the probability of the label."""
        return _pick(self.probabilities, self.labels)

    @property
    def p_predicted(self) -> np.ndarray:
        """(n,) float64: the probability of the predicted class."""
        return _pick(self.probabilities, self.predicted)


class Metric(Protocol):
    """Accumulates the outputs of this rank's batches; reduced over the ranks once at the end."""

    def add(self, outputs: Outputs) -> None:
        """Adds a batch."""

    def reduce(self, world: World) -> None:
        """Replaces this rank's values by those of all ranks; all ranks call it."""


def _pick(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(n,): one column of each row."""
    return values[np.arange(len(values)), columns]
