"""Atomic writes: a file or folder is complete or unchanged, and errors name what to do."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from dist_ft.errors import UserError

MAX_NAME_CHARS = 40  # of the original name in the temporary one: most file systems allow 255 bytes


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; when the body succeeds, its file is synced and becomes `path`.

    Parent folders are created. If the body fails, `path` stays as it was. A symbolic link stays
    a link, and its target is replaced. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    with _temporary(path) as temporary:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder of files; when the body succeeds, it becomes `path`.

    An existing folder is replaced: it is renamed to `path`.old until the new one is in place.
    Raises OSError.
    """
    path = Path(os.path.abspath(path))  # "." has no name
    old = path.with_name(f"{path.name}.old")
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            fsync(file)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(temporary, path)
        fsync(path.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def output_file(path: Path, flag: str) -> Iterator[Path]:
    """Like `atomic_file`, for a file that the user named with `flag`; raises UserError.

    A device or a pipe, such as /dev/stdout, is written to in place.
    """
    check_output_file(path, flag)
    with user_errors(f"{flag} {path}"):
        if path.exists() and not path.is_file():
            yield path
        else:
            with atomic_file(path) as temporary:
                yield temporary


@contextmanager
def output_folder(path: Path, flag: str) -> Iterator[Path]:
    """Like `atomic_folder`, for a new or empty folder that the user named; raises UserError."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{flag} {path}: already exists; remove it, or choose another")
    with user_errors(f"{flag} {path}"), atomic_folder(path) as temporary:
        yield temporary


def check_output_file(path: Path | None, flag: str) -> None:
    """Raises UserError if `output_file` would fail at once, before any work is done."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; name a file")
    with user_errors(f"{flag} {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def user_errors(
    what: str, action: str = "cannot be written", remedy: str = "choose another path"
) -> Iterator[None]:
    """Converts an OSError of the body into a UserError: "WHAT: ACTION (reason); REMEDY"."""
    try:
        yield
    except BrokenPipeError:  # the reader of standard output has seen enough, as `| head`
        raise
    except OSError as error:
        raise UserError(f"{what}: {action} ({error.strerror or error}); {remedy}") from error


@contextmanager
def library_path(path: Path) -> Iterator[str]:
    """A name of a file or folder for C++ libraries, which take names as UTF-8 only.

    Other names are those of another locale, or of any in a process without one (LC_ALL=C). path:
    may be missing in an existing folder, if its last part is ASCII. Raises OSError.
    """
    if os.fsencode(path) == str(path).encode("utf-8", "replace"):
        yield str(path)
        return
    exists = path.exists()
    descriptor = os.open(path if exists else path.parent, os.O_RDONLY)
    try:
        alias = f"/proc/self/fd/{descriptor}"
        yield alias if exists else f"{alias}/{path.name}"
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Waits until a file's contents, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    name = re.sub("[^ -~]", "_", path.name[:MAX_NAME_CHARS])  # ASCII: see library_path
    temporary = path.with_name(f".{name}.{uuid.uuid4().hex[:8]}.writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # renamed to `path`, or never created
            temporary.unlink()
