"""What TensorBoard shows of each test besides its scores; and curves.png."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from dist_ft.data.dataset import Dataset
from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import Scores
from dist_ft.evaluation.observer import Evidence
from dist_ft.evaluation.precision_recall import NUM_THRESHOLDS, Thresholds
from dist_ft.evaluation.predictions import Prediction
from dist_ft.text import on_one_line, printable

SHARE = 0.01  # of the run's time, where nobody says how often
MOST_CURVES = 100  # classes
LONGEST = 16  # letters of a name below a picture


class Gallery:
    """The views that take time: made of a test where they are due, and of the last one.

    every: epochs between them; 0: as often as takes SHARE of the time, and after the first epoch.
    """

    def __init__(self, writer: Any, run: Path, folder: Dataset, views: InputSpec, every: int):
        self._writer, self._run, self._every = writer, run, every
        self._folder, self._views = folder, views
        self._since, self._spent_s = time.monotonic(), 0.0
        self._undrawn: tuple | None = None

    def take(
        self,
        epoch: int,
        step: int,
        scores: Scores,
        evidence: Evidence,
        history: list[dict[str, Any]],
    ) -> None:
        """An epoch's end; history: the rows of scores.jsonl up to it."""
        self._undrawn = step, scores, evidence, history
        if self._is_due(epoch):
            self.draw()

    def draw(self) -> None:
        """Makes the views of the test that was taken last, unless they are made."""
        if not self._undrawn:
            return
        start = time.monotonic()
        from dist_ft.tracking import figures  # half a second to import

        (step, scores, evidence, history), self._undrawn = self._undrawn, None
        classes = self._folder.classes
        self._writer.add_figure("confusion", figures.confusion(scores.confusion, classes), step)
        self._curves(evidence.thresholds, step)
        if evidence.worst:
            pixels = np.stack([self._pixels(guess) for guess in evidence.worst])
            captions = [self._caption(guess) for guess in evidence.worst]
            self._writer.add_figure("mistakes", figures.captioned(pixels, captions), step)
        figures.curves(history).savefig(self._run / "curves.png", dpi=110)
        self._spent_s += time.monotonic() - start

    def _is_due(self, epoch: int) -> bool:
        if self._every:
            return (epoch + 1) % self._every == 0
        return self._spent_s <= SHARE * (time.monotonic() - self._since)

    def _curves(self, thresholds: Thresholds, step: int) -> None:
        for label, name in enumerate(self._folder.classes[:MOST_CURVES]):
            tag = f"precision_recall/{printable(name)}"
            self._writer.add_pr_curve_raw(tag, *thresholds.curve(label), step, NUM_THRESHOLDS)

    def _pixels(self, guess: Prediction) -> np.ndarray:
        return load_test_image(self._folder.test, guess.index, self._views)

    def _caption(self, guess: Prediction) -> str:
        own, predicted = (on_one_line(self._folder.classes[n])[:LONGEST] for n in guess[1:3])
        return f"is {own} {guess.p_label:.0%}\ntaken for {predicted} {guess.p_taken:.0%}"
