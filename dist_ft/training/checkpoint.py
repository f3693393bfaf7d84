"""Checkpoints: a directory a step, whole or absent, without a pickle in it.

    RUN/checkpoints/step-00000018/net.params      parameters, as net.load_parameters reads them
                                  trainer.params  the optimizer's arrays
                                  state.json      the rest, and the hash of each part

A directory is written under another name, read back, and renamed when its bytes are on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Sequence

import mxnet as mx

from dist_ft.errors import UserError

NET, TRAINER, STATE = "net.params", "trainer.params", "state.json"

Arrays = Dict[str, mx.nd.NDArray]


class Checkpoint(NamedTuple):
    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """How many steps had been made."""
        return self.state["step"]

    @property
    def accuracy(self) -> float:
        """On the test images; -1 in the middle of an epoch."""
        return self.state.get("test_accuracy", -1.0)

    def net_arrays(self) -> Arrays:
        return _load(self.path / NET)

    def trainer_arrays(self) -> Arrays:
        return _load(self.path / TRAINER)


def place(run: Path, step: int) -> Path:
    """The folder of that step's checkpoint."""
    return run / "checkpoints" / f"step-{step:08d}"


def save(run: Path, state: dict[str, Any], net: Arrays, trainer: Arrays, keep: int) -> Path:
    """Writes the checkpoint of `state["step"]`; then removes all but the last `keep` and the best.

    Raises UserError where the disk does not take it; the older ones are then untouched.
    """
    final = place(run, state["step"])
    beside = final.with_name(f".{final.name}.writing")
    try:
        for left in final.parent.glob(".step-*.writing"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        beside.mkdir(parents=True)
        hashes = {STATE: _seal(state)}
        for name, arrays in ((NET, net), (TRAINER, trainer)):
            mx.nd.save(str(beside / name), arrays)
            _load(beside / name)  # MXNet does not notice a disk that fills up as it closes a file
            hashes[name] = _sha256(beside / name)
        (beside / STATE).write_text(json.dumps({**state, "sha256": hashes}, indent=1))
        for name in (NET, TRAINER, STATE):
            _sync(beside / name)
        old = final.with_name(f"{final.name}.old")
        if final.exists():  # of the same step; until the new one is in place, it is found as .old
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(beside, final)
        _sync(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, mx.MXNetError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        free_mb = shutil.disk_usage(_existing(run)).free / 1e6
        raise UserError(
            f"{final}: cannot be written ({_reason(error)}; {free_mb:.0f} MB are free there); free"
            " some space, or choose another --out; earlier checkpoints are whole"
        ) from error
    _thin_out(run, keep)
    return final


def latest(run: Path) -> Checkpoint | None:
    """The run's last whole checkpoint; None where there is none."""
    return next(_whole(run, (NET, TRAINER)), None)


def best(run: Path) -> Checkpoint | None:
    """The checkpoint of the best test accuracy, the earlier of equals, whose network is whole; of
    untested ones the last."""
    found = _whole(run, (NET,))
    return max(found, key=lambda checkpoint: _worth(checkpoint.state), default=None)


def read(path: Path, parts: Sequence[str] = (NET,)) -> Checkpoint:
    """The checkpoint of one folder, once its state and these parts of it have been found whole.

    Raises UserError where they are not, which names the part.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        found = {STATE: _seal(state), **{name: _sha256(path / name) for name in parts}}
        damaged = [name for name, digest in found.items() if state["sha256"][name] != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no whole checkpoint ({error})") from error
    if damaged:
        raise UserError(f"{path / damaged[0]}: not as it was written")
    return Checkpoint(path, state)


def _whole(run: Path, parts: Sequence[str]) -> Iterator[Checkpoint]:
    """The checkpoints whose files are what was written, the last first; others are named."""
    for path in _directories(run):
        try:
            yield read(path, parts)
        except UserError as error:
            print(f"dist_ft: {error}: passed over", file=sys.stderr, flush=True)


def _directories(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)


def _thin_out(run: Path, keep: int) -> None:
    paths = _directories(run)
    top = max(paths, key=_worth_of)
    for path in set(paths[keep:]) - {top}:
        shutil.rmtree(path, ignore_errors=True)


def _worth(state: dict[str, Any]) -> tuple[float, int]:
    """The larger, the better: by accuracy, the earlier of equals; untested, by step."""
    accuracy, step = state.get("test_accuracy", -1.0), state["step"]
    return accuracy, step if accuracy < 0 else -step


def _worth_of(path: Path) -> tuple[float, int]:
    try:
        return _worth(json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return -2.0, 0


def _load(path: Path) -> Arrays:
    return mx.nd.load(str(path)) or {}


def _seal(state: dict[str, Any]) -> str:
    """A hash of all that is in a state but the hashes."""
    text = json.dumps({name: value for name, value in state.items() if name != "sha256"})
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
