"""Exact scores: integers and float64 sums over shards that drop and repeat no image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dist_ft.distributed.world import World
from dist_ft.evaluation.outputs import Outputs

TOP_K = 5


@dataclass
class Scores:
    """Sums over images; the properties divide them."""

    num_images: int
    correct: int
    correct_top5: int
    loss_sum: float
    confusion: np.ndarray  # (C, C) int64: images of class [row] that were predicted as [column]

    @classmethod
    def zero(cls, num_classes: int) -> Scores:
        return cls(0, 0, 0, 0.0, np.zeros((num_classes, num_classes), np.int64))

    def add(self, outputs: Outputs) -> None:
        self.num_images += len(outputs.labels)
        self.correct += int((outputs.labels == outputs.predicted).sum())
        self.correct_top5 += int((outputs.num_larger_logits < TOP_K).sum())
        self.loss_sum += float(outputs.losses.sum())
        np.add.at(self.confusion, (outputs.labels, outputs.predicted), 1)

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
