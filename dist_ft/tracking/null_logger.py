"""The interface of a run's logger, which logs nothing."""

from __future__ import annotations

from typing import Protocol, Sequence

import mxnet as mx
import numpy as np

from dist_ft.evaluation.evaluator import Evaluation
from dist_ft.tracking.epoch_scores import RankTimes
from dist_ft.tracking.test_scores import TestScores


class EpochSums(Protocol):
    """Sums over the images of an epoch so far, of all ranks."""

    loss_sum: float
    correct: int
    num_images: int


class NullLogger:
    """The logger of every rank except 0. RunLogger overrides all methods."""

    def info(self, message: str) -> None:
        """Prints a line on the console."""

    def log_batch(self, pixels: np.ndarray, step: int) -> None:
        """Shows images of a batch, (n, H, W, 3) uint8, as the network gets them."""

    def start_epoch(self, epoch: int, steps: range, sums: EpochSums, data_wait_s: float) -> None:
        """Starts the progress bar and the measurements of an epoch, counted from 0.

        data_wait_s: total time that rank 0 has waited for data.
        """

    def step(self) -> None:
        """Advances the progress bar."""

    def log_steps(
        self, step: int, position: str, sums: EpochSums, lr: float, data_wait_s: float
    ) -> None:
        """Adds a point to the training curves, of the steps since the last one.

        position: start of the console line, such as "epoch 1, step 10/60"; empty for no line.
        """

    def log_bad_images(self, reasons: dict[str, str]) -> None:
        """Prints unreadable files (path: message), each once per run."""

    def end_epoch(
        self,
        epoch: int,
        step: int,
        train: dict[str, float],
        evaluation: Evaluation,
        elapsed_s: float,
        ranks: Sequence[RankTimes] = (),
    ) -> None:
        """Writes the epoch's line, its row in scores.jsonl, its scalars and its figures.

        train: "loss" and "accuracy".
        """

    def log_histograms(
        self, net: mx.gluon.HybridBlock, trainer: mx.gluon.Trainer, epoch: int, step: int
    ) -> None:
        """Adds histograms of weights and gradients, in every epoch whose figures are due."""

    def log_test(self, scores: TestScores) -> None:
        """Writes test_scores.json and the scalars of the best network on the test images."""

    def end_run(self, evaluation: Evaluation | None) -> None:
        """Marks the run as finished; shows images of the last evaluation in feature space."""

    def draw_figures(self) -> None:
        """Draws the figures of the last evaluation, if they were not due."""

    def close(self) -> None:
        """Flushes and closes all files, without drawing pending figures."""
