"""A training run: what happens around each step and at the end of an epoch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import mxnet as mx
import numpy as np

from dist_ft.data import sampler
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import RankBatches
from dist_ft.distributed.rank_failure import is_rank_failure
from dist_ft.distributed.trainer import HookedTrainer
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, RankStopped, UserError, WorldResized
from dist_ft.evaluation.metrics import Scores
from dist_ft.files import user_errors
from dist_ft.models.loss_scale import FixedLossScale
from dist_ft.models.weight_average import WeightAverage
from dist_ft.tracking.null_logger import NullLogger
from dist_ft.tracking.test_scores import TestScores
from dist_ft.tracking.viewer import how_to_view
from dist_ft.training.consistency import check_finite, check_identical, check_unreadable
from dist_ft.training.feature_cache import FeatureBatches
from dist_ft.training.resume import RunLock
from dist_ft.training.saving import StateSaver
from dist_ft.training.schedule import LearningRate, Plan
from dist_ft.training.selection import Selection
from dist_ft.training.state import EpochSums, TrainingState
from dist_ft.training.step_sync import StepStatus, StepSync
from dist_ft.training.step_timing import StepTimer, slow_rank_message
from dist_ft.training.stop_signals import STOP_SIGNALS, StopRequest


@dataclass(frozen=True)
class RunOptions:
    """What is done around the steps. Periods are in steps; 0 for check_every and save_every means
    once per epoch."""

    folder: Path
    log_every: int
    check_every: int
    save_every: int
    commit_every: int | None  # None: not elastic
    patience: int  # epochs; 0: unlimited
    max_bad_share: float
    dropout_seed: int | None  # None: the network has no dropout
    histograms: bool


@dataclass
class Run:
    """The parts of a training run, as setup.build_run puts them together.

    Every rank has one and makes the same calls on it; an error on one rank ends the job, unless it
    is elastic.
    """

    options: RunOptions
    world: World
    batches: RankBatches | FeatureBatches
    plan: Plan
    learning_rate: LearningRate
    core: mx.gluon.HybridBlock  # (n, 3, side, side) float32, normalized, to (n, C) logits
    net: mx.gluon.HybridBlock  # (n, side, side, 3) uint8 pixels to (n, C) logits
    trained_net: mx.gluon.HybridBlock  # `net`, or only its head for cached features
    average: WeightAverage
    trainer: HookedTrainer
    loss_scale: FixedLossScale  # or its subclass DynamicLossScale
    state: TrainingState
    sync: StepSync
    timer: StepTimer
    saver: StateSaver
    selection: Selection
    logger: NullLogger  # its subclass RunLogger on rank 0
    lock: RunLock | None  # on rank 0
    test_scores: TestScores | None = None  # after `finish`, if val has selected the best epoch

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.batches.close()
        if not isinstance(error, UserError):  # on a full disk, closing would raise it again
            self.logger.close()
        if self.lock:
            self.lock.release()
        if self.world.is_main and is_rank_failure(error):
            with suppress(UserError):  # in case too few ranks are left to continue
                self.saver.save_last_commit()

    @property
    def step(self) -> int:
        """Number of steps made."""
        return self.state.step

    @property
    def best_accuracy(self) -> float:
        """The accuracy of the best epoch so far, on val or, without val, test; -1 before the first
        evaluation."""
        return self.state.best_accuracy

    # Called by the training loop, in this order

    def epochs(self) -> Iterator[tuple[int, range]]:
        """(epoch, its remaining steps) until all steps are made or --patience is exhausted."""
        patience = self.options.patience
        for epoch, steps in self.plan.epochs_from(self.step):
            if patience and self.state.epochs_without_improvement >= patience:
                return
            yield epoch, steps

    def train_batches(self, epoch: int, steps: range) -> Iterator[Batch]:
        """This rank's augmented batches for the steps."""
        waited_s = self.batches.train_loader.waited_s
        self.logger.start_epoch(epoch, steps, self.state.epoch_sums, waited_s)
        self.timer.start_epoch(steps)
        return self.batches.train(epoch, map(self.plan.images_of, steps))

    def begin_step(self, step: int, batch: Batch, stop: StopRequest) -> float:
        """Synchronizes the ranks. Returns the sum of the weights of the step's images on all ranks.

        Raises CollectiveError if a rank received a stop signal (after saving), if a loss is not
        finite, or if too many files are unreadable. In an elastic run, only the ranks that were
        stopped raise RankStopped and the others raise WorldResized, as all do when hosts change.
        """
        self.world.heartbeat(f"step {step}")
        if self.options.dropout_seed is not None:  # independent of earlier steps and of resuming
            seed = sampler.step_seed(self.options.dropout_seed, step, self.world.rank)
            mx.random.seed(seed, self.world.ctx)
        if step == 0 and batch.x.dtype == np.uint8:  # pixels, not features
            self.logger.log_batch(batch.x, step)
        loader = self.batches.train_loader
        status = self.sync.exchange(batch.weight_sum, len(loader.unreadable), stop.received)
        if status.stop_signal:
            self._stop(status, step, stop)
        if status.resize:
            self.saver.commit()
            raise WorldResized
        check_unreadable(status.num_unreadable, self.options.max_bad_share, loader, self.world)
        self.timer.start_step(step)
        return status.weight_sum or 1.0  # if all files are unreadable, the gradient is 0

    def end_step(self, step: int, sums: mx.nd.NDArray, num_images: int) -> None:
        """Logs, compares the ranks and saves, as often as the options say.

        sums, num_images: of this rank, as train_step returns them and as the batch has them.
        """
        options, state = self.options, self.state
        self.average.update(step)
        self.sync.push(sums, num_images, step)
        state.step, state.selection_accuracy = step + 1, None
        self.logger.step()
        if state.step % options.log_every == 0:
            epoch = self.plan.epoch_of(step) + 1
            self._log_curves(f"epoch {epoch}, step {state.step}/{self.plan.num_steps}")
        if options.check_every and state.step % options.check_every == 0:
            check_identical(self.average.arrays(), state.step, self.world)
        if self.plan.ends_epoch(state.step):
            return  # end_epoch saves
        if options.save_every and state.step % options.save_every == 0:
            self.saver.save()
        if options.commit_every and state.step % options.commit_every == 0:
            self.saver.commit()

    def end_epoch(self, epoch: int) -> Scores:
        """Evaluates the network, logs the epoch and saves."""
        state, world = self.state, self.world
        self.sync.settle()
        timings = self.timer.gather()
        self._log_curves()
        self.average.pool_statistics(world)
        check_finite(self.average.arrays(), state.step)
        if not self.options.check_every:
            check_identical(self.average.arrays(), state.step, world)
        with self.average.in_network():
            evaluation = self.selection.evaluate()
        train = {"loss": state.epoch_sums.loss, "accuracy": state.epoch_sums.accuracy}
        with world.raise_on_all_ranks(), self._writing():
            elapsed_s, times = self.saver.elapsed_s, [timing.to_times() for timing in timings]
            self.logger.end_epoch(epoch, state.step, train, evaluation, elapsed_s, times)
            if self.options.histograms:
                self.logger.log_histograms(self.core, self.trainer, epoch, state.step)
        slow_rank = slow_rank_message(timings)
        if slow_rank:
            self.logger.info(slow_rank)
        if self.plan.ends_epoch(state.step):
            self.sync.sums = state.epoch_sums = EpochSums()
            self.saver.restart_clock()
        self.saver.save()
        if self.options.commit_every:
            self.saver.commit()
        return evaluation.scores

    def finish(self) -> None:
        """Scores the best network on test, completes the run's files, and says where they are."""
        folder, name = self.options.folder, self.batches.dataset.selection_name
        self.average.copy_to_network()
        self.test_scores = scores = self.selection.score_test(folder)
        with self.world.raise_on_all_ranks(), self._writing():
            self.logger.end_run(self.selection.last_evaluation)
        best = f"best {name} acc {scores.val_accuracy if scores else self.best_accuracy:.3f}"
        if scores:
            epoch = self.plan.epoch_of(scores.step - 1) + 1
            best += f" after epoch {epoch}, whose test acc is {scores.accuracy:.3f}"
        self.logger.info(
            f"{best}; {folder} holds curves.png, scores.jsonl and checkpoints"
            f"\n{how_to_view(folder)}"
        )

    # Helpers of the methods above

    def _stop(self, status: StepStatus, step: int, stop: StopRequest) -> None:
        """Saves and ends the run; an elastic run ends only for the ranks that were stopped."""
        assert status.stop_signal
        path = self.saver.save()
        message = f"stopped by {status.stop_signal.name} before step {step}; saved as {path}"
        if self.world.session.ends_run(status.num_stopped):
            self.logger.draw_figures()
            self.logger.close()
            raise CollectiveError(
                f"{message}; the same command resumes from there", STOP_SIGNALS[status.stop_signal]
            )
        self.saver.commit()
        if stop.received:
            raise RankStopped(f"{message}; the other ranks continue", STOP_SIGNALS[stop.received])
        raise WorldResized

    def _log_curves(self, position: str = "") -> None:
        rate = self.learning_rate.at(self.step - 1)
        waited_s = self.batches.train_loader.waited_s
        with self._writing():
            self.logger.log_steps(self.step, position, self.state.epoch_sums, rate, waited_s)

    def _writing(self) -> Any:
        return user_errors(f"--out {self.options.folder}", remedy="choose another --out")
