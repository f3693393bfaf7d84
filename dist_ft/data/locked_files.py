"""Temporary files in a cache folder that unrelated processes share.

Several runs, containers and hosts may use a cache folder at once, and any of them may die at any
time. So a temporary file is locked (flock) for as long as its writer lives, and whoever comes next
removes those without a lock.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

# Another host's locks may be invisible: its files are abandoned after a day without a write.
ABANDONED_S = 86_400


def temporary_path(path: Path) -> Path:
    """A hidden path next to `path` that no other process uses."""
    return path.with_name(f".{path.name}.{boot_id()}.{uuid.uuid4().hex[:16]}")


def create_locked(path: Path) -> tuple[Path, int]:
    """Creates a temporary file next to `path`, and locks it.

    Returns its path and a descriptor, whose closing gives up the lock.
    """
    while True:
        temporary = temporary_path(path)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if _lock(descriptor) and temporary.exists():  # else removed before it was locked
            return temporary, descriptor
        os.close(descriptor)


def open_unnamed(folder: Path) -> int | None:
    """The descriptor of a new file without a name, which vanishes with its process.

    None if the system cannot create such files, or not give them a name later.
    """
    if not os.path.isdir("/proc/self/fd"):
        return None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:  # any other problem will also occur, and be reported, with a named file
        return None
    _lock(descriptor)
    return descriptor


def link_unnamed(descriptor: int, path: Path) -> Path:
    """Gives the file of `open_unnamed` a temporary name next to `path`, and returns it."""
    temporary = temporary_path(path)
    # src_dir_fd has no meaning here, but without it Python's os.link does not follow symlinks.
    os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor)
    return temporary


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Removes the files matching `pattern` whose writers have died."""
    for path in folder.glob(pattern):
        with suppress(OSError):  # locked, removed meanwhile, or owned by another user
            _remove_if_abandoned(path)


def boot_id() -> str:
    """Names this host until it reboots. All containers of a host have it, and locks, in common."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return os.uname().nodename


def _remove_if_abandoned(path: Path) -> None:
    # Files from before a reboot have another boot_id, as those of another host.
    is_local = f".{boot_id()}." in path.name
    if not is_local and time.time() - os.lstat(path).st_mtime < ABANDONED_S:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # A shared lock, because NFS allows no exclusive one on a file that is open for reading.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """False if another process holds the lock. True also if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
