"""The features of a sample of test images, for TensorBoard's projector."""

from __future__ import annotations

import numpy as np

from dist_ft.distributed.world import World
from dist_ft.evaluation.outputs import Outputs

MAX_IMAGES = 1000


class FeatureSample:
    """Features of at most `max_images` of `num_images`, evenly spaced and so over all classes."""

    def __init__(self, num_images: int, max_images: int = MAX_IMAGES):
        self._selected = evenly_spaced(num_images, max_images)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, outputs: Outputs) -> None:
        rows = np.isin(outputs.indices, self._selected)
        if outputs.features.size and rows.any():
            self._parts.append((outputs.indices[rows], outputs.features[rows]))

    def reduce(self, world: World) -> None:
        self._parts = [part for parts in world.gather(self._parts) for part in parts]

    @property
    def indices(self) -> np.ndarray:
        """(n,) int64, ascending."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(part for part, _ in self._parts)]))

    @property
    def features(self) -> np.ndarray:
        """(n, D) float32, in the order of `indices`; (0, 0) if the network has no features."""
        if not self._parts:
            return np.empty((0, 0), np.float32)
        indices, features = (np.concatenate(parts) for parts in zip(*self._parts))
        return features[np.argsort(indices)]


def evenly_spaced(num_images: int, max_images: int) -> np.ndarray:
    """Indices of at most `max_images` of the images, evenly spaced."""
    num = min(num_images, max_images)
    return np.arange(num) * num_images // max(num, 1)
