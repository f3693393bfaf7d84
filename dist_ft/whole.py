"""A file or folder on disk that is whole or absent: written under another name, then renamed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from dist_ft.errors import UserError


@contextmanager
def file(path: Path, flag: str) -> Iterator[Path]:
    """Where to write what is to be the file `path`, which it becomes when the body ends well.

    flag: that named it. Raises UserError where the operating system does not take it.
    """
    with _beside(path, flag) as beside:
        yield beside
        _sync(beside)
        os.replace(beside, path)


@contextmanager
def folder(path: Path, flag: str) -> Iterator[Path]:
    """As `file`, for a folder of files; one that has something in it is not replaced."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{flag} {path}: is there already: remove it, or choose another")
    with _beside(path, flag) as beside:
        beside.mkdir()
        yield beside
        for part in beside.iterdir():
            _sync(part)
        os.replace(beside, path)


@contextmanager
def _beside(path: Path, flag: str) -> Iterator[Path]:
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{flag} {path}: cannot be written ({reason}): choose another") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if beside.is_file():
            beside.unlink()


def _sync(path: Path) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())
