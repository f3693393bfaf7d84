"""The prediction for each image of a split: the worst mistakes, the least certain images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_type_hints

import numpy as np

from dist_ft.distributed.world import World
from dist_ft.evaluation.metrics import Outputs, pick


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image; probabilities are 0..1."""

    index: int  # the image's position in its split
    label: int
    predicted: int
    loss: float
    p_predicted: float
    p_label: float


COLUMNS = np.dtype(list(get_type_hints(Prediction).items()))  # int64 and float64


class Predictions:
    """A table with a row per readable image; after `reduce` in the order of the split."""

    def __init__(self) -> None:
        self.table = np.empty(0, COLUMNS)
        self._parts: list[np.ndarray] = []

    def add(self, outputs: Outputs) -> None:
        labels, predicted = outputs.labels, outputs.predicted
        probabilities = outputs.probabilities
        p_predicted, p_label = pick(probabilities, predicted), pick(probabilities, labels)
        rows = zip(outputs.indices, labels, predicted, outputs.losses, p_predicted, p_label)
        self._parts.append(np.array(list(rows), COLUMNS))

    def reduce(self, world: World) -> None:
        table = np.concatenate(world.gather(np.concatenate([self.table, *self._parts])))
        self.table, self._parts = table[np.argsort(table["index"])], []

    def __len__(self) -> int:
        return len(self.table)

    def worst(self, num: int) -> list[Prediction]:
        """The mistakes with the largest losses, the worst first."""
        mistakes = self.table[self.table["predicted"] != self.table["label"]]
        return _rows(mistakes[np.argsort(mistakes["p_label"], kind="stable")[:num]])

    def least_certain(self, num: int) -> list[Prediction]:
        """Those whose predicted class has the smallest probability, correct or not."""
        return _rows(self.table[np.argsort(self.table["p_predicted"], kind="stable")[:num]])

    def at(self, indices: np.ndarray) -> list[Prediction]:
        """The predictions for these images of the split."""
        return _rows(self.table[np.searchsorted(self.table["index"], indices)])


def _rows(table: np.ndarray) -> list[Prediction]:
    return [Prediction(*row) for row in table.tolist()]
