"""The evaluation report: scores, confidence intervals, calibration and metrics of each class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Iterator, Sequence

import numpy as np

from dist_ft.evaluation.calibration import reliability
from dist_ft.evaluation.confidence_intervals import bootstrap, wilson
from dist_ft.evaluation.confusion import class_scores
from dist_ft.evaluation.metrics import TOP_K, Scores
from dist_ft.evaluation.predictions import Predictions
from dist_ft.text import on_one_line

MAX_PRINTED_CLASSES = 20  # a larger confusion matrix is not printed
PRINTED_NAMES = {
    "loss": "loss",
    "accuracy": "top-1",
    "accuracy_top5": "top-5",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error",
}


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
    tta: str = "none"  # test-time augmentation

    @cached_property
    def results(self) -> dict[str, Any]:
        """All results as plain values; NAME_95 is the 95 % interval of NAME."""
        scores, table = self.scores, self.predictions.table
        calibration = reliability(table["label"] == table["predicted"], table["p_predicted"])
        intervals = bootstrap(
            lambda weights: weighted_statistics(table, len(self.classes), weights), len(table)
        )
        loss_95, error_95, macro_f1_95, *f1_95 = intervals.tolist()
        return {
            "checkpoint": self.checkpoint,
            "step": self.step,
            "data": self.data,
            "tta": self.tta,
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
            "classes": self._class_results(f1_95),
            "confusion": scores.confusion.tolist(),
            "unreadable": self.unreadable,
        }

    def _class_results(self, f1_95: Sequence[Sequence[float]]) -> dict[str, Any]:
        metrics = class_scores(self.scores.confusion)
        correct = np.diag(self.scores.confusion).tolist()
        return {
            name: {
                "precision": float(metrics.precision[k]),
                "precision_95": wilson(correct[k], int(metrics.num_predicted[k])),
                "recall": float(metrics.recall[k]),
                "recall_95": wilson(correct[k], int(metrics.support[k])),
                "f1": float(metrics.f1[k]),
                "f1_95": f1_95[k],
                "support": int(metrics.support[k]),
            }
            for k, name in enumerate(self.classes)
        }

    def lines(self) -> Iterator[str]:
        """The report as text."""
        tta = "" if self.tta == "none" else f", --tta {self.tta}"
        num_images = self.scores.num_images
        yield on_one_line(f"{self.checkpoint} on {self.data}: {num_images} images{tta}")
        if not self.scores.num_images:
            yield "no image could be read, so there are no scores"
            return
        for name, printed in PRINTED_NAMES.items():
            if name != "accuracy_top5" or len(self.classes) > TOP_K:
                interval = _interval(self.results[f"{name}_95"])
                yield f"{printed:17}  {self.results[name]:.4f}  (95 %: {interval})"
        names = [on_one_line(name) for name in self.classes]
        width = max(len("class"), *map(len, names))
        yield f"\n{'class':{width}}  images  precision  recall  {'95 %':14}      F1  95 %"
        for name, row in zip(names, self.results["classes"].values()):
            yield (
                f"{name:{width}}  {row['support']:6}  {row['precision']:9.3f}"
                f"  {row['recall']:6.3f}  {_interval(row['recall_95'])}"
                f"  {row['f1']:6.3f}  {_interval(row['f1_95'])}"
            )
        if len(self.classes) <= MAX_PRINTED_CLASSES:
            yield "\nconfusion matrix (rows: true class, columns: predicted class)"
            digits = len(str(self.scores.confusion.max()))
            for name, counts in zip(names, self.scores.confusion):
                yield f"{name:{width}}  {' '.join(f'{count:{digits}}' for count in counts)}"


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


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
