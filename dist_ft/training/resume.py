"""Which earlier run a run goes on with, and what becomes of one that it does not."""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path

from dist_ft.errors import UserError
from dist_ft.training import checkpoint, run_spec


def find(resume: str, run: Path, now: run_spec.Facts) -> checkpoint.Checkpoint | None:
    """The last whole checkpoint that `--resume` names; None to begin anew. Of another run's, this
    one's own where it has come so far: the same command goes on.

    run: where this run's record goes; now: what this run is made of. Raises UserError where the
    checkpoint belongs to a run of other settings, or is not there.
    """
    if resume == "never":
        return None
    source, found = run, checkpoint.latest(run)
    if found is None and resume == "auto":
        return None
    if found is None:
        source = Path(resume)
        found = checkpoint.latest(source)
    if found is None:
        raise UserError(f"--resume {resume}: no whole checkpoint in {source / 'checkpoints'}")
    differences = run_spec.since_checkpoint(found.state["facts"], now)
    if differences:
        raise UserError(
            f"{source} is a run of other settings ({'; '.join(differences)}): choose another --out,"
            " or --resume never, which sets it aside"
        )
    return found


def set_aside(run: Path) -> bool:
    """Renames an earlier run's folder, if there is one, to the first free of run.1, run.2, ...
    Returns whether there was one."""
    run = Path(os.path.abspath(run))  # '.' has no name
    if not run.exists() or not any(run.iterdir()):
        return False
    names = (run.with_name(f"{run.name}.{number}") for number in count(1))
    run.rename(next(path for path in names if not path.exists()))
    return True


class RunLock:
    """That no other run writes to a folder, until it is given up or the process ends.

    Raises UserError where another one holds it, OSError where the folder cannot be opened. Where
    the file system has no locks, it is none.
    """

    _folder: int | None = None  # its descriptor

    def __init__(self, run: Path):
        self._folder = os.open(run, os.O_RDONLY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--out {run}: another run is writing there: wait for its end, or choose another"
            ) from error
        except OSError:
            pass

    def give_up(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
        self._folder = None

    __del__ = give_up
