"""Logs a run: console lines, a progress bar, TensorBoard, config.json and the files of scores."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from dist_ft import files
from dist_ft.data.dataset import Dataset
from dist_ft.data.transforms import InputSpec
from dist_ft.evaluation.evaluator import Evaluation
from dist_ft.evaluation.metrics import TOP_K
from dist_ft.text import printable
from dist_ft.tracking import epoch_scores, tensorboard_internals, tensorboard_plugins
from dist_ft.tracking.epoch_scores import EpochScores, RankTimes
from dist_ft.tracking.evaluation_figures import EvaluationFigures
from dist_ft.tracking.null_logger import EpochSums, NullLogger
from dist_ft.tracking.test_scores import TestScores

console = logging.getLogger(__name__)

FLUSH_S = 10  # instead of tensorboardX's two minutes, for people who watch
MAX_BATCH_IMAGES = 32
MAX_NAMED_IMAGES = 5


class _Rates(NamedTuple):
    """Means over some training steps."""

    loss: float
    accuracy: float
    images_per_s: float
    data_wait_share: float  # of the time, 0..1


class RunLogger(NullLogger):
    """Logs a run below the folder `run`, on rank 0.

    step: the step that the run resumes from, or 0. figures_every: epochs between figures, see
    EvaluationFigures. Methods that write files raise OSError, for example if the disk is full.
    """

    def __init__(
        self,
        run: Path,
        settings: dict[str, Any],
        dataset: Dataset,
        spec: InputSpec,
        step: int,
        figures_every: int = 0,
    ):
        run.mkdir(parents=True, exist_ok=True)
        self.run, self._dataset, self._spec = run, dataset, spec
        self._figures_every = figures_every
        scores_path = run / "scores.jsonl"
        self._history: list[EpochScores] = []
        if step and scores_path.exists():
            self._history = [row for row in epoch_scores.read(scores_path) if row.step <= step]
        with files.atomic_file(run / "config.json") as path:
            path.write_text(json.dumps(settings, indent=1, default=str) + "\n", encoding="utf-8")
        with files.atomic_file(scores_path) as path:
            path.write_text("".join(row.to_json() + "\n" for row in self._history))
        self._writer = SummaryWriter(
            str(run / "tensorboard"),
            # TensorBoard drops what a killed process has logged after the step resumed from.
            purge_step=step + 1 if step else 0,
            max_queue=0,  # unlimited: a full queue would block for ever once its thread has died
            flush_secs=FLUSH_S,
        )
        self._writer.add_text("config", _markdown_table(settings), 0)
        tensorboard_plugins.start_hparams(self._writer, settings)
        self._figures = EvaluationFigures(self._writer, run, dataset, spec, figures_every)
        self._bar: tqdm | None = None
        self._named_bad: set[str] = set()
        self._epoch_start = self._last_point = np.zeros(5)  # see _totals

    def info(self, message: str) -> None:
        console.info("%s", message)

    def log_batch(self, pixels: np.ndarray, step: int) -> None:
        self._writer.add_images("batch", pixels[:MAX_BATCH_IMAGES], step, dataformats="NHWC")

    def start_epoch(self, epoch: int, steps: range, sums: EpochSums, data_wait_s: float) -> None:
        if sys.stderr.isatty():
            self._bar = tqdm(total=len(steps), desc=f"epoch {epoch + 1}", unit="step", leave=False)
        self._epoch_start = self._last_point = _totals(sums, data_wait_s)

    def step(self) -> None:
        if self._bar:
            self._bar.update()

    def log_steps(
        self, step: int, position: str, sums: EpochSums, lr: float, data_wait_s: float
    ) -> None:
        now = _totals(sums, data_wait_s)
        rates = _rates(self._last_point, now)
        if rates is None:
            return
        self._last_point = now
        scalars = {"train/loss": rates.loss, "train/accuracy": rates.accuracy, "train/lr": lr}
        scalars["speed/images_per_s"] = rates.images_per_s
        scalars["speed/data_wait_share"] = rates.data_wait_share
        self._add_scalars(step, scalars)
        text = (
            f"loss {rates.loss:.4f}, {rates.images_per_s:.1f} images/s,"
            f" data wait {rates.data_wait_share:.0%}"
        )
        if self._bar:
            self._bar.set_postfix_str(text)
        elif position:
            self.info(f"{position}, {text}")

    def log_bad_images(self, reasons: dict[str, str]) -> None:
        new = [reasons[path] for path in sorted(reasons) if path not in self._named_bad]
        self._named_bad.update(reasons)
        if new:
            num_more = len(new) - MAX_NAMED_IMAGES
            more = f" and {num_more} more" if num_more > 0 else ""
            named = "; ".join(new[:MAX_NAMED_IMAGES])
            self.info(f"left out {len(new)} unreadable images: {named}{more}")

    def end_epoch(
        self,
        epoch: int,
        step: int,
        train: dict[str, float],
        evaluation: Evaluation,
        elapsed_s: float,
        ranks: Sequence[RankTimes] = (),
    ) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None
        scores, split = evaluation.scores, self._dataset.selection_name
        rates = _rates(self._epoch_start, self._last_point)
        row = EpochScores(
            epoch=epoch + 1,
            step=step,
            train_loss=train["loss"],
            train_accuracy=train["accuracy"],
            loss=scores.loss,
            accuracy=scores.accuracy,
            correct=scores.correct,
            images=scores.num_images,
            elapsed_s=elapsed_s,
            confusion=scores.confusion.tolist(),
            accuracy_top5=scores.accuracy_top5 if len(self._dataset.classes) > TOP_K else None,
            images_per_s=rates.images_per_s if rates else None,
            data_wait_share=rates.data_wait_share if rates else None,
            ranks=tuple(ranks) if len(ranks) > 1 else (),
            split=split,
        )
        self._history.append(row)
        with open(self.run / "scores.jsonl", "a", encoding="utf-8") as file:
            file.write(row.to_json() + "\n")
        self.info(
            f"epoch {row.epoch}, loss {row.train_loss:.4f}, train acc {row.train_accuracy:.3f},"
            f" {split} acc {row.accuracy:.3f}, time {elapsed_s:.1f} sec"
        )
        best = max(row.accuracy for row in self._history)
        self._add_scalars(step, {f"best/{split}_accuracy": best, **_scalars(row)})
        self._figures.add(epoch, step, evaluation, tuple(self._history))

    def log_test(self, scores: TestScores) -> None:
        scores.write(self.run)
        scalars = {"test/loss": scores.loss, "test/accuracy": scores.accuracy}
        self._add_scalars(scores.step, scalars)

    def log_histograms(
        self, net: mx.gluon.HybridBlock, trainer: mx.gluon.Trainer, epoch: int, step: int
    ) -> None:
        if (epoch + 1) % max(1, self._figures_every) == 0:
            tensorboard_plugins.add_histograms(self._writer, net, trainer, step)

    def end_run(self, evaluation: Evaluation | None) -> None:
        self.draw_figures()
        if evaluation is not None and len(evaluation.features.indices):
            step = self._history[-1].step
            tensorboard_plugins.add_projector(
                self._writer, evaluation, self._dataset, self._spec, step
            )
        tensorboard_plugins.end_hparams(self._writer)

    def draw_figures(self) -> None:
        self._figures.draw_pending()

    def close(self) -> None:
        # No figures here: after a failure, ranks do not wait long for each other.
        if self._bar:
            self._bar.close()
        self._writer.close()

    def _add_scalars(self, step: int, scalars: dict[str, float]) -> None:
        tensorboard_internals.check_worker(self._writer)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


def _totals(sums: EpochSums, data_wait_s: float) -> np.ndarray:
    """(5,): loss, correct images, images, waiting time and time, in total so far."""
    counts = sums.loss_sum, sums.correct, sums.num_images
    return np.array([*counts, data_wait_s, time.perf_counter()])


def _rates(start: np.ndarray, end: np.ndarray) -> _Rates | None:
    """The rates between two points; None if there is no image between them."""
    loss_sum, correct, num_images, data_wait_s, elapsed_s = (end - start).tolist()
    if not num_images:
        return None
    per_image = loss_sum / num_images, correct / num_images
    return _Rates(*per_image, num_images / elapsed_s, data_wait_s / elapsed_s)


def _scalars(row: EpochScores) -> dict[str, float]:
    scalars = {f"{row.split}/loss": row.loss, f"{row.split}/accuracy": row.accuracy}
    if row.accuracy_top5 is not None:
        scalars[f"{row.split}/accuracy_top5"] = row.accuracy_top5
    if row.ranks:
        step_ms = [rank.step_s * 1e3 for rank in row.ranks]
        slowest, median = max(step_ms), float(np.median(step_ms))
        scalars["ranks/slowest_step_ms"] = slowest
        scalars["ranks/median_step_ms"] = median
        scalars["ranks/spread"] = (slowest - min(step_ms)) / max(median, 1e-9)
    return scalars


def _markdown_table(settings: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    return printable(f"| setting | value |\n| --- | --- |\n{rows}")
