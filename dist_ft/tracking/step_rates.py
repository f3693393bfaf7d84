"""Loss, accuracy and speed over a number of training steps, from running totals."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol


class EpochSums(Protocol):
    """Sums over the images of an epoch so far, of all ranks."""

    loss_sum: float
    correct: int
    num_images: int


class Rates(NamedTuple):
    """Means over some training steps."""

    loss: float
    accuracy: float
    images_per_s: float
    data_wait_share: float  # of the time, 0..1


class Totals(NamedTuple):
    """Running totals at a point in time."""

    loss_sum: float
    correct: int
    num_images: int
    data_wait_s: float
    time_s: float

    @staticmethod
    def now(sums: EpochSums, data_wait_s: float) -> Totals:
        counts = sums.loss_sum, sums.correct, sums.num_images
        return Totals(*counts, data_wait_s, time.perf_counter())

    def since(self, start: Totals) -> Rates | None:
        """The rates between two points; None if there is no image between them."""
        num_images = self.num_images - start.num_images
        if not num_images:
            return None
        elapsed_s = self.time_s - start.time_s
        return Rates(
            (self.loss_sum - start.loss_sum) / num_images,
            (self.correct - start.correct) / num_images,
            num_images / elapsed_s,
            (self.data_wait_s - start.data_wait_s) / elapsed_s,
        )
