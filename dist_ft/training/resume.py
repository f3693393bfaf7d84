"""Which earlier run a run resumes, and the lock on a run's folder."""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path
from typing import Union

import mxnet as mx

from dist_ft.distributed.session import Commit
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import optimizers
from dist_ft.models.weight_average import WeightAverage
from dist_ft.training import checkpoint
from dist_ft.training.run_spec import RunSpec, resume_differences
from dist_ft.training.state import TrainingState

Source = Union[
    checkpoint.Checkpoint, Commit, None
]  # what a run resumes; None: start from the beginning


def find_checkpoint(resume: str, run: Path, spec: RunSpec) -> checkpoint.Checkpoint | None:
    """The checkpoint to resume from, or None to start from the beginning.

    resume: "auto" for the last checkpoint of this run's folder, "never", or another run's folder.
    With another folder, this run's own last checkpoint wins if there is one, so that repeating the
    command continues the run. Raises UserError if the checkpoint belongs to a run with different
    settings, or does not exist.
    """
    if resume == "never":
        return None
    source, found = run, checkpoint.latest(run)
    if found is None and resume != "auto":
        source = Path(resume)
        found = checkpoint.latest(source)
        if found is None:
            raise UserError(f"--resume {source}: no complete checkpoint in {source}/checkpoints")
    differences = resume_differences(found.state.run_spec, spec) if found else []
    if differences:
        raise UserError(
            f"{source} is a run with different settings ({'; '.join(differences)}); choose another"
            " --out, or --resume never, which renames the old run"
        )
    return found


def restore(
    source: Source, average: WeightAverage, trainer: mx.gluon.Trainer, world: World
) -> TrainingState | None:
    """Gives all ranks the parameters and optimizer state of one checkpoint; all ranks call it.

    Of the ranks' sources, the one with the most steps is used: when a rank was lost, others may
    have made one more commit. Without any, all ranks get rank 0's initial parameters. Returns the
    state that belongs to them, or None.
    """
    states = world.gather(source.state if source else None)
    root = max(range(world.size), key=lambda rank: states[rank].step if states[rank] else -1)
    state = states[root]
    optimizers.create_state(trainer, state.step if state else 0)
    arrays = {**average.arrays(), **optimizers.state_arrays(trainer)}
    with world.raise_on_all_ranks():
        if source:
            saved = {**source.net_arrays(), **source.trainer_arrays()}
            for name, array in arrays.items():
                array[:] = saved[name]
    world.broadcast(arrays, root)
    return state


def set_aside(run: Path) -> bool:
    """Renames an earlier run's folder to the first free of run.1, run.2, ...; False if empty."""
    run = Path(os.path.abspath(run))  # "." has no name
    if not run.exists() or not any(run.iterdir()):
        return False
    candidates = (run.with_name(f"{run.name}.{number}") for number in count(1))
    run.rename(next(path for path in candidates if not path.exists()))
    return True


class RunLock:
    """A lock on a run's folder, held until it is released or the process ends.

    Raises UserError if another run holds it, and OSError if the folder cannot be opened. It has no
    effect on file systems without locks.
    """

    _descriptor: int | None = None

    def __init__(self, run: Path):
        self._descriptor = os.open(run, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--out {run}: another run is writing there; wait for it to end, or choose another"
            ) from error
        except OSError:
            pass

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    __del__ = release
