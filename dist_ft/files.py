"""A file or folder on disk that is whole or absent: written under another name, then renamed."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from dist_ft.errors import UserError

LONGEST = 40  # characters of a name that one beside it is called by: 255 bytes is the limit of most


@contextmanager
def file(path: Path, flag: str) -> Iterator[Path]:
    """Where to write what is to be the file `path`, which it becomes when the body ends well.

    A link stays one, to the new file; what is no file, as a pipe or /dev/stdout, is written to as
    it is. flag: that named it. Raises UserError where the operating system does not take it.
    """
    check_file(path, flag)
    if path.exists() and not path.is_file():
        with _told(path, flag):
            yield path
        return
    path = Path(os.path.realpath(path))
    with _beside(path, flag) as beside:
        yield beside
        _sync(beside)
        os.replace(beside, path)


@contextmanager
def folder(path: Path, flag: str) -> Iterator[Path]:
    """As `file`, for a folder of files; one that has something in it is not replaced."""
    path = Path(os.path.abspath(path))  # '.' has no name
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{flag} {path}: is there already: remove it, or choose another")
    with _beside(path, flag) as beside:
        beside.mkdir()
        yield beside
        for part in beside.iterdir():
            _sync(part)
        os.replace(beside, path)


def check_file(path: Path | None, flag: str) -> None:
    """Raises UserError where `file` would at once: before what is written there is worked out."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder: name a file")
    with _told(path, flag):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _beside(path: Path, flag: str) -> Iterator[Path]:
    beside = path.with_name(f".{path.name[:LONGEST]}.{os.getpid()}.writing")
    try:
        with _told(path, flag):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):  # it has become `path`, or was never there
            beside.unlink()


@contextmanager
def _told(path: Path, flag: str) -> Iterator[None]:
    """An OSError as the user's: the disk's, the permissions', the name's."""
    try:
        yield
    except BrokenPipeError:  # of a pipe, whose reader has seen enough
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{flag} {path}: cannot be written ({reason}): choose another") from error


def _sync(path: Path) -> None:
    with open(path, "rb") as written:
        os.fsync(written.fileno())
