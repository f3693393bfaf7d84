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
            (temporary / OLD).mkdir()
            for name in reversed(names):
                if os.path.lexists(out / name):
                    os.replace(out / name, temporary / OLD / name)
            for name in names:
                os.replace(temporary / name, out / name)
    finally:
        with _signals_ignored():
            _clean_up(temporary, out, names)


def existing_file(out: Path, names: Sequence[str]) -> Path | None:
    """A file in one of these folders of `out`, if there is any."""
    return next((path for n in names for path in (out / n).rglob("*") if path.is_file()), None)


def recover(out: Path, names: Sequence[str], prefix: str) -> None:
    """Restores the old entries that killed processes left away; removes temporary folders."""
    for temporary in out.glob(f"{prefix}*"):
        _clean_up(temporary, out, names)


def _clean_up(temporary: Path, out: Path, names: Sequence[str]) -> None:
    """Undoes a replacement that stopped before the last name arrived; removes `temporary`."""
    old = temporary / OLD
    if old.is_dir() and not os.path.lexists(out / names[-1]):
        try:
            for name in names:
                if os.path.lexists(out / name) and not os.path.lexists(temporary / name):
                    os.replace(out / name, temporary / name)
                if os.path.lexists(old / name):
                    os.replace(old / name, out / name)
            old.rmdir()
        except OSError as error:
            raise OSError(
                f"{error}: {out} could not be restored; move its old content back from {old}"
            ) from error
    shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignores requests to stop for the milliseconds of a replacement."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
