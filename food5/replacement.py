"""Replaces several files and folders of a folder together: all of them, or none."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

OLD = "old"  # subfolder of a temporary folder that holds what is being replaced


@contextmanager
def replacing(out: Path, names: Sequence[str], prefix: str) -> Iterator[Path]:
    """Yields a temporary folder in `out`; its entries `names` replace those of `out` at the end.

    If the body or the replacement raises, `out` stays as it was and the temporary folder is
    removed. The last name is the first to be moved away and the last to arrive, so that a reader
    who finds it finds all of them. After a SIGKILL in between, `recover` restores the old entries.
    """
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=out))
    try:
        yield temporary
        with _signals_ignored():
            _swap(temporary, out, names)
    finally:
        if not _is_interrupted(temporary, out, names):  # else it holds the only copy
            shutil.rmtree(temporary, ignore_errors=True)


def recover(out: Path, names: Sequence[str], prefix: str) -> None:
    """Finishes what killed processes left: restores the old entries, removes temporary folders."""
    for temporary in out.glob(f"{prefix}*"):
        if _is_interrupted(temporary, out, names):
            _restore(temporary, out, names)
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, out: Path, names: Sequence[str]) -> None:
    (temporary / OLD).mkdir()
    try:
        for name in reversed(names):
            if os.path.lexists(out / name):
                os.replace(out / name, temporary / OLD / name)
        for name in names:
            os.replace(temporary / name, out / name)
    except BaseException:
        _restore(temporary, out, names)
        raise


def _restore(temporary: Path, out: Path, names: Sequence[str]) -> None:
    """Undoes a swap that stopped before the last name arrived."""
    try:
        for name in reversed(names):
            if os.path.lexists(out / name) and not os.path.lexists(temporary / name):
                os.replace(out / name, temporary / name)
        for name in names:
            if os.path.lexists(temporary / OLD / name):
                os.replace(temporary / OLD / name, out / name)
    except OSError as error:
        raise OSError(
            f"{error}: {out} could not be restored; move its old content back from"
            f" {temporary / OLD}"
        ) from error


def _is_interrupted(temporary: Path, out: Path, names: Sequence[str]) -> bool:
    """True if old entries are still away and the last new one has not arrived."""
    old = temporary / OLD
    return old.is_dir() and any(old.iterdir()) and not os.path.lexists(out / names[-1])


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignores requests to stop for the milliseconds of a swap, after which the process ends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
