"""Checkpoints on disk: one folder per saved step, written atomically, without pickle.

RUN/checkpoints/step-00000018/net.params      parameters; net.load_parameters reads them
                              trainer.params  the optimizer's arrays, and with averaged parameters
                                              those that training continues from
                              state.json      a TrainingState, and the SHA-256 of each part
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Sequence

import mxnet as mx

from dist_ft.errors import UserError
from dist_ft.files import atomic_folder, library_path, sha256_of
from dist_ft.training.state import TrainingState, UnknownFormat

NET, TRAINER, STATE = "net.params", "trainer.params", "state.json"

Arrays = Dict[str, mx.nd.NDArray]

logger = logging.getLogger(__name__)


class DamagedCheckpoint(UserError):
    """A checkpoint that is incomplete or not as it was written."""


class Checkpoint(NamedTuple):
    path: Path
    state: TrainingState

    @property
    def step(self) -> int:
        """Number of steps made."""
        return self.state.step

    @property
    def accuracy(self) -> float:
        """On the images that select the best epoch; -1 if the checkpoint was not evaluated."""
        accuracy = self.state.selection_accuracy
        return -1.0 if accuracy is None else accuracy

    def net_arrays(self) -> Arrays:
        return _load(self.path / NET)

    def trainer_arrays(self) -> Arrays:
        return _load(self.path / TRAINER)


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return run / "checkpoints" / f"step-{step:08d}"


def save(run: Path, state: TrainingState, net: Arrays, trainer: Arrays, keep: int) -> Path:
    """Writes a checkpoint, then removes all except the last `keep` and the best.

    Raises UserError if it cannot be written; older checkpoints are then untouched.
    """
    path = folder_of(run, state.step)
    for leftover in path.parent.glob(".step-*.writing"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with atomic_folder(path) as temporary:
            _write(temporary, state.to_dict(), net, trainer)
    except (OSError, mx.MXNetError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
        existing = next(folder for folder in (run, *run.parents) if folder.exists())
        free_mb = shutil.disk_usage(existing).free / 1e6
        raise UserError(
            f"{path}: cannot be written ({reason}; {free_mb:.0f} MB are free); free some space, or"
            " choose another --out; earlier checkpoints are intact"
        ) from error
    _remove_old(run, keep)
    return path


def latest(run: Path) -> Checkpoint | None:
    """The run's last undamaged checkpoint, or None. Raises UnknownFormat."""
    return next(_undamaged(run, (NET, TRAINER)), None)


def best(run: Path) -> Checkpoint | None:
    """The checkpoint with the best accuracy whose network is undamaged, or None.

    Of equal ones the earliest; of those that were not evaluated the last. Raises UnknownFormat.
    """
    return _best(_undamaged(run, (NET,)))


def read(path: Path, parts: Sequence[str] = (NET,)) -> Checkpoint:
    """The checkpoint in one folder, after verifying the hashes of its state and of `parts`.

    Raises DamagedCheckpoint, which names the part, and UnknownFormat.
    """
    try:
        values = json.loads((path / STATE).read_text(encoding="utf-8"))
        expected = values.pop("sha256")
        actual = {STATE: _hash_of_state(values), **{n: sha256_of(path / n) for n in parts}}
        damaged = [name for name, digest in actual.items() if expected[name] != digest]
        if damaged:
            raise DamagedCheckpoint(f"{path / damaged[0]}: damaged; its SHA-256 has changed")
        return Checkpoint(path, TrainingState.from_dict(values))
    except UnknownFormat as error:
        raise UnknownFormat(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}: not a complete checkpoint ({error})") from error


def _write(folder: Path, state: dict[str, Any], net: Arrays, trainer: Arrays) -> None:
    hashes = {STATE: _hash_of_state(state)}
    for name, arrays in ((NET, net), (TRAINER, trainer)):
        with library_path(folder / name) as file:
            mx.nd.save(file, arrays)
        _load(folder / name)  # MXNet ignores a disk that fills up while it closes the file
        hashes[name] = sha256_of(folder / name)
    (folder / STATE).write_text(json.dumps({**state, "sha256": hashes}, indent=1))


def _undamaged(run: Path, parts: Sequence[str]) -> Iterator[Checkpoint]:
    """The checkpoints with undamaged parts, last first; warns about the others."""
    for path in _folders(run):
        try:
            yield read(path, parts)
        except DamagedCheckpoint as error:
            logger.warning("%s; skipped", error)


def _best(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    def preference(c: Checkpoint) -> tuple[float, int]:
        return c.accuracy, c.step if c.accuracy < 0 else -c.step

    return max(checkpoints, key=preference, default=None)


def _remove_old(run: Path, keep: int) -> None:
    found = _best(_recorded(run))
    for path in _folders(run)[keep:]:
        if found is None or path != found.path:
            shutil.rmtree(path, ignore_errors=True)


def _recorded(run: Path) -> Iterator[Checkpoint]:
    """The checkpoints as their states describe them, unverified: this is done after every save."""
    for path in _folders(run):
        with suppress(UnknownFormat, OSError, ValueError, KeyError, TypeError, AttributeError):
            values = json.loads((path / STATE).read_text(encoding="utf-8"))
            values.pop("sha256", None)
            yield Checkpoint(path, TrainingState.from_dict(values))


def _folders(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def _load(path: Path) -> Arrays:
    with library_path(path) as file:
        return mx.nd.load(file) or {}


def _hash_of_state(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
