"""What TensorBoard shows of an evaluation besides its scores, and the run's curves.png."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Callable, Sequence

from tensorboardX import SummaryWriter

from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import Evaluation
from dist_ft.evaluation.metrics import NUM_THRESHOLDS
from dist_ft.evaluation.predictions import Prediction
from dist_ft.text import on_one_line, printable
from dist_ft.tracking.epoch_scores import EpochScores

MAX_TIME_SHARE = 0.01  # of the run, if no interval is set
MAX_PR_CURVES = 100  # classes
MAX_MISTAKES = 16
MAX_CAPTION_CHARS = 16  # of a class name


class EvaluationFigures:
    """Draws confusion, precision-recall curves and worst mistakes of some of the evaluations.

    every: epochs between drawings; 0: after the first epoch, and then as often as drawing takes at
    most MAX_TIME_SHARE of the time. The last evaluation is drawn by `draw_pending`.
    """

    def __init__(
        self, writer: SummaryWriter, run: Path, dataset: Dataset, spec: InputSpec, every: int
    ):
        self._writer, self._run, self._every = writer, run, every
        self._dataset, self._spec = dataset, spec
        self._start, self._spent_s = time.monotonic(), 0.0
        self._draw_last: Callable[[], None] | None = None  # unless it is drawn already

    def add(
        self, epoch: int, step: int, evaluation: Evaluation, history: Sequence[EpochScores]
    ) -> None:
        """history: the epochs up to this one."""
        self._draw_last = partial(self._draw, step, evaluation, history)
        if self._every:
            is_due = (epoch + 1) % self._every == 0
        else:
            is_due = self._spent_s <= MAX_TIME_SHARE * (time.monotonic() - self._start)
        if is_due:
            self.draw_pending()

    def draw_pending(self) -> None:
        """Draws the last evaluation, unless it is drawn already."""
        start = time.monotonic()
        if self._draw_last:
            self._draw_last()
            self._draw_last = None
        self._spent_s += time.monotonic() - start

    def _draw(self, step: int, evaluation: Evaluation, history: Sequence[EpochScores]) -> None:
        from dist_ft.tracking import figures  # matplotlib takes 0.5 s to import

        classes = self._dataset.classes
        confusion = figures.confusion(evaluation.scores.confusion, classes)
        self._writer.add_figure(self._tag("confusion"), confusion, step)
        for label, name in enumerate(classes[:MAX_PR_CURVES]):
            tag = self._tag(f"precision_recall/{printable(name)}")
            curve = evaluation.precision_recall.curve(label)
            self._writer.add_pr_curve_raw(tag, *curve, step, NUM_THRESHOLDS)
        worst = evaluation.predictions.worst(MAX_MISTAKES)
        if worst:
            split = self._dataset.selection
            images = [load_test_image(split, p.index, self._spec) for p in worst]
            captions = [self._caption(prediction) for prediction in worst]
            self._writer.add_figure(
                self._tag("mistakes"), figures.captioned(images, captions), step
            )
        figures.curves(history).savefig(self._run / "curves.png", dpi=110)

    def _tag(self, name: str) -> str:
        """Of the images of val, which have selected the best epoch, or of test."""
        return name if self._dataset.val is None else f"val/{name}"

    def _caption(self, prediction: Prediction) -> str:
        classes = [on_one_line(name)[:MAX_CAPTION_CHARS] for name in self._dataset.classes]
        return (
            f"label {classes[prediction.label]} {prediction.p_label:.0%}\n"
            f"predicted {classes[prediction.predicted]} {prediction.p_predicted:.0%}"
        )
