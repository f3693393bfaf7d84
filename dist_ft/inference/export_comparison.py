"""Compares an exported network with the trained one, image by image."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Iterable

import numpy as np

from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import TEST_BATCH_SIZE
from dist_ft.distributed.world import World
from dist_ft.evaluation.evaluator import Network, forward

TOLERANCE = 1e-3  # of a probability, between two implementations of float32


@dataclass
class Comparison:
    """Counts of images, and the largest difference of a probability."""

    num_images: int = 0
    num_equal: int = 0  # with the same predicted class
    num_clear: int = 0  # with another one, although the network's margin exceeds TOLERANCE
    max_difference: float = 0.0  # inf if the export gives a value that is not finite
    num_labelled: int = 0
    correct: int = 0  # labelled images that the network classifies correctly
    correct_exported: int = 0  # and the export

    def add(self, labels: np.ndarray, network: np.ndarray, exported: np.ndarray) -> None:
        """labels: (n,), -1 if unknown; network, exported: (n, C) probabilities."""
        expected, actual = network.argmax(axis=1), exported.argmax(axis=1)
        two_largest = np.sort(network, axis=1)[:, -2:]
        has_margin = two_largest[:, 1] - two_largest[:, 0] > TOLERANCE
        is_finite = np.isfinite(exported).all()
        difference = float(np.abs(network - exported).max()) if is_finite else math.inf
        self.num_images += len(labels)
        self.num_equal += int((expected == actual).sum())
        self.num_clear += int((has_margin & (expected != actual)).sum())
        self.max_difference = max(self.max_difference, difference)
        self.num_labelled += int((labels >= 0).sum())
        self.correct += int((expected == labels).sum())
        self.correct_exported += int((actual == labels).sum())

    def is_same_network(self) -> bool:
        """True if the differences are those of two float32 implementations."""
        has_same_labels = self.num_images > 0 and self.num_clear == 0
        return has_same_labels and self.max_difference <= TOLERANCE

    def keeps_labels(self, share: float) -> bool:
        """True if at least this share of the labels is equal."""
        is_finite = math.isfinite(self.max_difference)
        return is_finite and 0 < share * self.num_images <= self.num_equal

    def __str__(self) -> str:
        text = (
            f"{self.num_equal} of {self.num_images} labels equal, largest difference of a"
            f" probability {self.max_difference:.2g}"
        )
        if not self.num_labelled:
            return text
        before = self.correct / self.num_labelled
        after = self.correct_exported / self.num_labelled
        return f"{text}, accuracy {after:.4f} (the network's {before:.4f})"


def compare(
    network: Network, exported: Network, batches: Iterable[Batch], world: World
) -> Comparison:
    """Runs both networks, from uint8 pixels to probabilities, on the same images."""
    comparison = Comparison()
    first, second = itertools.tee(batches)
    runs = forward(network, first, world, "export"), forward(exported, second, world, "export")
    for (expected, batch), (actual, _) in zip(*runs):
        comparison.add(batch.labels, expected, actual)
    return comparison


def noise(side: int) -> list[Batch]:
    """A batch of random pixels without labels."""
    pixels = np.random.RandomState(0).randint(0, 256, (TEST_BATCH_SIZE, side, side, 3))
    labels = np.full(TEST_BATCH_SIZE, -1, np.int32)
    mask = np.ones(TEST_BATCH_SIZE, np.float32)
    return [Batch(pixels.astype(np.uint8), labels, mask, np.arange(TEST_BATCH_SIZE))]
