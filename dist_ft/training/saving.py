"""When and how a run's state is saved: checkpoints on disk, and commits of an elastic run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import mxnet as mx

from dist_ft.distributed.world import World
from dist_ft.models import batch_norm, optimizers, parameters
from dist_ft.models.loss_scale import FixedLossScale
from dist_ft.training import checkpoint
from dist_ft.training.consistency import check_finite
from dist_ft.training.state import TrainingState
from dist_ft.training.step_sync import StepSync


class StateSaver:
    """Saves the state that all ranks are in after a step; all ranks call its methods.

    state: changes as the run proceeds; elapsed_s is set when it is saved.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        world: World,
        core: mx.gluon.HybridBlock,
        trainer: mx.gluon.Trainer,
        sync: StepSync,
        state: TrainingState,
        loss_scale: FixedLossScale,
    ):
        self._folder, self._keep, self._world = folder, keep, world
        self._core, self._trainer, self._sync = core, trainer, sync
        self._state, self._loss_scale = state, loss_scale
        self.restart_clock(state.elapsed_s)

    def restart_clock(self, elapsed_s: float = 0.0) -> None:
        """Starts to measure an epoch of which `elapsed_s` seconds are over."""
        self._epoch_start = time.perf_counter() - elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds spent in the epoch so far, without the time between a stop and a resume."""
        return time.perf_counter() - self._epoch_start

    def save(self) -> Path:
        """Writes a checkpoint on rank 0. Returns its path; raises CollectiveError."""
        self._world.heartbeat("checkpoint")
        if self._state.test_accuracy is None:  # otherwise the evaluation has done both
            self._settle()
            check_finite(parameters.arrays(self._core), self._state.step)
        with self._world.raise_on_all_ranks():
            if self._world.is_main:
                checkpoint.save(self._folder, self._snapshot(), *self._arrays(), keep=self._keep)
        return checkpoint.folder_of(self._folder, self._state.step)

    def commit(self) -> None:
        """Keeps a copy of the state in memory, for the ranks that survive the loss of another."""
        self._settle()
        self._world.session.commit(self._snapshot(), *self._arrays())

    def save_last_commit(self) -> None:
        """Writes a checkpoint of the last commit, if there is one. Raises UserError."""
        commit = self._world.session.last_commit
        if commit:
            arrays = commit.net_arrays(), commit.trainer_arrays()
            checkpoint.save(self._folder, commit.state, *arrays, keep=self._keep)

    def _settle(self) -> None:
        """Brings the epoch's sums and BatchNorm's statistics up to the last step."""
        self._sync.settle()
        batch_norm.pool_statistics(self._core, self._world)

    def _snapshot(self) -> TrainingState:
        return replace(
            self._state,
            epoch_sums=replace(self._state.epoch_sums),
            elapsed_s=self.elapsed_s,
            loss_scale=self._loss_scale.state(),
        )

    def _arrays(self) -> tuple[checkpoint.Arrays, checkpoint.Arrays]:
        return parameters.arrays(self._core), optimizers.state_arrays(self._trainer)
