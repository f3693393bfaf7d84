"""Which earlier run a run goes on with, and what becomes of one that it does not."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from dist_ft import checkpoint, facts
from dist_ft.errors import UserError


def find(resume: str, run: Path, now: facts.Facts) -> checkpoint.Checkpoint | None:
    """The last whole checkpoint that `--resume` names; None to begin anew.

    run: where this run's record goes; now: what this run is made of. Raises UserError where the
    checkpoint belongs to a run of other settings, or is not there.
    """
    if resume == "never":
        return None
    source = run if resume == "auto" else Path(resume)
    found = checkpoint.latest(source)
    if found is None and resume == "auto":
        return None
    if found is None:
        raise UserError(f"--resume {resume}: no whole checkpoint in {source / 'checkpoints'}")
    if source.resolve() != run.resolve() and checkpoint.latest(run):
        raise UserError(f"--out {run}: holds a run already; choose another")
    differences = facts.since_checkpoint(found.state["facts"], now)
    if differences:
        raise UserError(
            f"{source} is a run of other settings ({'; '.join(differences)}): choose another --out,"
            " or --resume never, which sets it aside"
        )
    return found


def set_aside(run: Path) -> None:
    """Renames an earlier run's folder to the first free of run.1, run.2, ..."""
    if run.exists() and any(run.iterdir()):
        names = (run.with_name(f"{run.name}.{number}") for number in count(1))
        run.rename(next(path for path in names if not path.exists()))
