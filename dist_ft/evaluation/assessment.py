"""The evaluation report: scores, confidence intervals, calibration and metrics of each class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Iterator, Sequence

import numpy as np

from dist_ft.evaluation.calibration import Reliability, reliability
from dist_ft.evaluation.confidence_intervals import bootstrap, wilson
from dist_ft.evaluation.confusion import class_scores
from dist_ft.evaluation.predictions import Predictions
from dist_ft.evaluation.scores import TOP_K, Scores
from dist_ft.text import on_one_line

MAX_PRINTED_CLASSES = 20  # a larger confusion matrix is not printed


@dataclass(frozen=True)
class Assessment:
    """Results of a checkpoint on a split."""

    checkpoint: str
    step: int
    data: str
    classes: Sequence[str]
    scores: Scores
    predictions: Predictions
    unreadable: dict[str, str]  # what is wrong with each unreadable image, by its path

    @property
    def calibration(self) -> Reliability:
        table = self.predictions.table
        return reliability(table["label"] == table["predicted"], table["p_predicted"])

    @cached_property
    def intervals(self) -> np.ndarray:
        """(3 + C, 2): the 95 % intervals of `weighted_statistics`."""
        table, num_classes = self.predictions.table, len(self.classes)
        return bootstrap(
            lambda weights: weighted_statistics(table, num_classes, weights), len(table)
        )

    def as_json(self) -> dict[str, Any]:
        """All results as plain values; NAME_95 is the 95 % interval of NAME."""
        scores, calibration = self.scores, self.calibration
        loss_95, error_95, macro_f1_95, *f1_95 = self.intervals.tolist()
        return {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "data": self.data,
            "images": scores.num_images,
            "correct": scores.correct,
            "correct_top5": scores.correct_top5,
            "loss": scores.loss,
            "loss_95": loss_95,
            "accuracy": scores.accuracy,
            "accuracy_95": wilson(scores.correct, scores.num_images),
            "accuracy_top5": scores.accuracy_top5,
            "accuracy_top5_95": wilson(scores.correct_top5, scores.num_images),
            "macro_f1": class_scores(scores.confusion).macro_f1,
            "macro_f1_95": macro_f1_95,
            "calibration_error": calibration.error,
            "calibration_error_95": error_95,
            "calibration": {name: sums.tolist() for name, sums in calibration._asdict().items()},
            "classes": self._classes_as_json(f1_95),
            "confusion": scores.confusion.tolist(),
            "unreadable": self.unreadable,
        }

    def _classes_as_json(self, f1_95: Sequence[Sequence[float]]) -> dict[str, Any]:
        confusion = self.scores.confusion
        metrics = class_scores(confusion)
        return {
            name: {
                "precision": float(metrics.precision[k]),
                "precision_95": wilson(int(confusion[k, k]), int(metrics.num_predicted[k])),
                "recall": float(metrics.recall[k]),
                "recall_95": wilson(int(confusion[k, k]), int(metrics.support[k])),
                "f1": float(metrics.f1[k]),
                "f1_95": f1_95[k],
                "support": int(metrics.support[k]),
            }
            for k, name in enumerate(self.classes)
        }

    def lines(self) -> Iterator[str]:
        """The report as text."""
        scores = self.scores
        yield on_one_line(f"{self.checkpoint} on {self.data}: {scores.num_images} images")
        if not scores.num_images:
            yield "no image could be read, so there are no scores"
            return
        loss_95, error_95, macro_f1_95, *f1_95 = self.intervals
        yield _score("loss", scores.loss, loss_95)
        yield _score("top-1", scores.accuracy, wilson(scores.correct, scores.num_images))
        if len(self.classes) > TOP_K:
            top5_95 = wilson(scores.correct_top5, scores.num_images)
            yield _score("top-5", scores.accuracy_top5, top5_95)
        yield _score("macro F1", class_scores(scores.confusion).macro_f1, macro_f1_95)
        yield _score("calibration error", self.calibration.error, error_95)
        yield ""
        yield from self._class_lines(f1_95)
        if len(self.classes) <= MAX_PRINTED_CLASSES:
            yield ""
            yield from self._confusion_lines()

    def _class_lines(self, f1_95: Sequence[Sequence[float]]) -> Iterator[str]:
        confusion, width = self.scores.confusion, self._name_width
        metrics = class_scores(confusion)
        yield f"{'class':{width}}  images  precision  recall  {'95 %':14}      F1  95 %"
        for k, name in enumerate(self.classes):
            support = int(metrics.support[k])
            yield (
                f"{on_one_line(name):{width}}  {support:6}  {metrics.precision[k]:9.3f}"
                f"  {metrics.recall[k]:6.3f}  {_interval(wilson(int(confusion[k, k]), support))}"
                f"  {metrics.f1[k]:6.3f}  {_interval(f1_95[k])}"
            )

    def _confusion_lines(self) -> Iterator[str]:
        yield "confusion matrix (rows: true class, columns: predicted class)"
        confusion = self.scores.confusion
        digits = len(str(confusion.max()))
        for name, counts in zip(self.classes, confusion):
            cells = " ".join(f"{count:{digits}}" for count in counts)
            yield f"{on_one_line(name):{self._name_width}}  {cells}"

    @property
    def _name_width(self) -> int:
        return max(len("class"), *(len(on_one_line(name)) for name in self.classes))


def weighted_statistics(table: np.ndarray, num_classes: int, weights: np.ndarray) -> np.ndarray:
    """(3 + C,): loss, calibration error, macro F1 and the F1 of each class.

    table: `Predictions.table` of n images; weights: (n,), how often each image counts.
    """
    cells = table["label"] * num_classes + table["predicted"]
    confusion = np.bincount(cells, weights, num_classes**2).reshape(num_classes, num_classes)
    metrics = class_scores(confusion)
    is_correct = table["label"] == table["predicted"]
    error = reliability(is_correct, table["p_predicted"], weights).error
    loss = (weights * table["loss"]).sum() / max(1, weights.sum())
    return np.array([loss, error, metrics.macro_f1, *metrics.f1])


def _score(name: str, value: float, interval: Sequence[float]) -> str:
    return f"{name:17}  {value:.4f}  (95 %: {_interval(interval)})"


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
