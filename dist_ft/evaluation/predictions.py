"""The prediction for each image of a split: the worst mistakes, the least certain images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dist_ft.distributed.world import World
from dist_ft.evaluation.outputs import Outputs

COLUMNS = np.dtype(
    [
        *(("index", np.int64), ("label", np.int64), ("predicted", np.int64)),
        *(("loss", np.float64), ("p_predicted", np.float64), ("p_label", np.float64)),
    ]
)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image; probabilities are 0..1."""

    index: int  # the image's position in its split
    label: int
    predicted: int
    loss: float
    p_predicted: float
    p_label: float


class Predictions:
    """A table with a row per readable image; after `reduce` in the order of the split."""

    def __init__(self) -> None:
        self.table = np.empty(0, COLUMNS)
        self._parts: list[np.ndarray] = []

    def add(self, outputs: Outputs) -> None:
        rows = np.empty(len(outputs.labels), COLUMNS)
        rows["index"], rows["label"] = outputs.indices, outputs.labels
        rows["predicted"], rows["loss"] = outputs.predicted, outputs.losses
        rows["p_predicted"], rows["p_label"] = outputs.p_predicted, outputs.p_label
        self._parts.append(rows)

    def reduce(self, world: World) -> None:
        table = np.concatenate([self.table, *self._parts])
        table = np.concatenate(world.gather(table))
        self.table, self._parts = table[np.argsort(table["index"])], []

    def __len__(self) -> int:
        return len(self.table)

    def worst(self, num: int) -> list[Prediction]:
        """The mistakes with the largest losses, the worst first."""
        mistakes = self.table[self.table["predicted"] != self.table["label"]]
        order = np.argsort(mistakes["p_label"], kind="stable")
        return _rows(mistakes[order[:num]])

    def least_certain(self, num: int) -> list[Prediction]:
        """Those whose predicted class has the smallest probability, correct or not."""
        order = np.argsort(self.table["p_predicted"], kind="stable")
        return _rows(self.table[order[:num]])

    def at(self, indices: np.ndarray) -> list[Prediction]:
        """The predictions for these images of the split."""
        return _rows(self.table[np.searchsorted(self.table["index"], indices)])


def _rows(table: np.ndarray) -> list[Prediction]:
    return [Prediction(*row) for row in table.tolist()]
