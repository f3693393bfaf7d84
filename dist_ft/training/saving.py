"""When and how a run's state is saved: checkpoints on disk, and commits of an elastic run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import mxnet as mx

from dist_ft.distributed.world import World
from dist_ft.models import optimizers
from dist_ft.models.loss_scale import FixedLossScale
from dist_ft.models.weight_average import WeightAverage
from dist_ft.training import checkpoint
from dist_ft.training.consistency import check_finite
from dist_ft.training.state import TrainingState
from dist_ft.training.step_sync import StepSync


@dataclass
class StateSaver:
    """Saves the state that all ranks are in after a step; all ranks call its methods."""

    folder: Path
    keep: int
    world: World
    average: WeightAverage
    trainer: mx.gluon.Trainer
    sync: StepSync
    state: TrainingState  # changes as the run proceeds; elapsed_s is set when it is saved
    loss_scale: FixedLossScale

    def __post_init__(self) -> None:
        self.restart_clock(self.state.elapsed_s)

    def restart_clock(self, elapsed_s: float = 0.0) -> None:
        """Starts to measure an epoch of which `elapsed_s` seconds are over."""
        self._epoch_start = time.perf_counter() - elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds spent in the epoch so far, without the time between a stop and a resume."""
        return time.perf_counter() - self._epoch_start

    def save(self) -> Path:
        """Writes a checkpoint on rank 0. Returns its path; raises CollectiveError."""
        self.world.heartbeat("checkpoint")
        if self.state.selection_accuracy is None:  # otherwise the evaluation has done both
            self._settle()
            check_finite(self.average.arrays(), self.state.step)
        with self.world.raise_on_all_ranks():
            if self.world.is_main:
                checkpoint.save(self.folder, self._snapshot(), *self._arrays(), keep=self.keep)
        return checkpoint.folder_of(self.folder, self.state.step)

    def commit(self) -> None:
        """Keeps a copy of the state in memory, for the ranks that survive the loss of another."""
        self._settle()
        self.world.session.commit(self._snapshot(), *self._arrays())

    def save_last_commit(self) -> None:
        """Writes a checkpoint of the last commit, if there is one. Raises UserError."""
        commit = self.world.session.last_commit
        if commit:
            arrays = commit.net_arrays(), commit.trainer_arrays()
            checkpoint.save(self.folder, commit.state, *arrays, keep=self.keep)

    def _settle(self) -> None:
        """Brings the epoch's sums and BatchNorm's statistics up to the last step."""
        self.sync.settle()
        self.average.pool_statistics(self.world)

    def _snapshot(self) -> TrainingState:
        return replace(
            self.state,
            epoch_sums=replace(self.state.epoch_sums),
            elapsed_s=self.elapsed_s,
            loss_scale=self.loss_scale.state(),
        )

    def _arrays(self) -> tuple[checkpoint.Arrays, checkpoint.Arrays]:
        trainer_arrays = optimizers.state_arrays(self.trainer)
        return self.average.net_arrays(), {**trainer_arrays, **self.average.current_arrays()}
