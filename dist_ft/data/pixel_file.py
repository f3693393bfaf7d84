"""Decoded images in one file, memory-mapped, so that all ranks of a host share one copy of them.

The pixels stand one image after another, then comes the index: where each begins, its height and
width, what is wrong with those that could not be read, and the key of what the file was made from.

A cache is shared by runs, containers and hosts that know nothing of each other, and any may die at
any time. What one is writing has a name of its own or none, and is locked for as long as its writer
lives: what lies there without a lock is nobody's.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import shutil
import struct
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from dist_ft.data.decoding import CorruptImage, DecodedImage

MAGIC = b"dist_ft1"
END = struct.Struct(f"<QQ{len(MAGIC)}s")  # where the index begins, its length, the magic bytes
AHEAD = 16  # images being made a worker, before they are written
ABANDONED_S = 86_400  # without a write, where a lock of another host's may not be seen on this one


class PixelFile:
    """A pack that was written as a whole. Raises ValueError where it was not, or of another key."""

    def __init__(self, path: Path, key: str):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < END.size:
            raise ValueError(f"{path}: cut off")
        begin, length, magic = END.unpack_from(self._map, len(self._map) - END.size)
        if magic != MAGIC or begin + length + END.size != len(self._map):
            raise ValueError(f"{path}: cut off, or no pack")
        index = json.loads(self._map[begin : begin + length])
        if index["key"] != key:
            raise ValueError(f"{path}: made from other images")
        self._shapes = [tuple(shape) for shape in index["shapes"]]
        sizes = [height * width * 3 for height, width in self._shapes]
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._bad = {int(image): words for image, words in index["bad"].items()}

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def num_bytes(self) -> int:
        return len(self._map)

    def image(self, index: int) -> DecodedImage:
        """An image's pixels. Raises CorruptImage where it could not be read."""
        if index in self._bad:
            raise CorruptImage(self._bad[index])
        begin, (height, width) = int(self._begins[index]), self._shapes[index]
        pixels = np.frombuffer(self._map, np.uint8, height * width * 3, begin)
        return DecodedImage(pixels.reshape(height, width, 3))


def write(
    path: Path,
    key: str,
    num_images: int,
    make: Callable[[int], np.ndarray],
    num_workers: int,
    made: Callable[[], None] = lambda: None,
) -> None:
    """Writes what `make` gives for each index, (h, w, 3) uint8; whole or absent.

    CorruptImage and OSError of `make` are kept as that image's; any other error ends it. `made` is
    called after each image. Raises OSError, on a full disk say.
    """
    with PixelFileWriter(path) as unfinished:
        unfinished.fill(key, num_images, make, num_workers, made)
        unfinished.finish()


class PixelFileWriter:
    """A pack that is being written to `path`, where it appears with `finish` and not before.

    It has no name until then, so that it ends with its process. Where the file system does not have
    files without a name, it lies beside, for `remove_abandoned` to find.
    """

    def __init__(self, path: Path):
        self._path = path
        self._beside: Path | None = None
        descriptor = _nameless(path.parent)
        if descriptor is None:
            self._beside, descriptor = create_locked(path, partial(Path.touch, exist_ok=False))
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> PixelFileWriter:
        return self

    def __exit__(self, *_) -> None:
        """Lets go of the lock, and of what is not finished."""
        if self._beside is not None:
            self._beside.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk: what is left in the buffer is nothing to keep
            self._file.close()

    def fill(
        self,
        key: str,
        num_images: int,
        make: Callable[[int], np.ndarray],
        num_workers: int,
        made: Callable[[], None] = lambda: None,
    ) -> None:
        """Writes all of it; as the function `write`."""
        file, shapes, bad = self._file, [], {}
        for number, found in enumerate(_in_order(make, num_images, num_workers)):
            if isinstance(found, str):
                bad[number], found = found, np.empty((0, 0, 3), np.uint8)
            shapes.append(found.shape[:2])
            file.write(np.ascontiguousarray(found).data)
            made()
        index = json.dumps({"key": key, "shapes": shapes, "bad": bad}).encode()
        begin = file.tell()
        file.write(index + END.pack(begin, len(index), MAGIC))
        file.flush()
        os.fsync(file.fileno())

    def finish(self) -> None:
        """Gives it its name; another pack of that name is replaced."""
        if self._beside is None:
            descriptor, beside = self._file.fileno(), _beside(self._path)
            # The descriptor of a folder is not used, but without one Python follows no link.
            os.link(f"/proc/self/fd/{descriptor}", beside, src_dir_fd=descriptor)
            self._beside = beside
        self._beside.replace(self._path)
        self._beside = None


def create_locked(path: Path, create: Callable[[Path], None]) -> tuple[Path, int]:
    """What `create` makes, a file or a folder, under a name beside `path` that no other has.

    Also returns its descriptor: `remove_abandoned` leaves it alone until that is closed.
    """
    while True:
        beside = _beside(path)
        create(beside)
        with suppress(FileNotFoundError):  # swept before it was locked
            descriptor = os.open(beside, os.O_RDONLY if beside.is_dir() else os.O_RDWR)
            if _lock(descriptor) and beside.exists():
                return beside, descriptor
            os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Removes of the files and folders of that pattern those whose writers have died."""
    for left in folder.glob(pattern):
        with suppress(OSError):  # locked, gone, or of another user
            _remove_abandoned(left)


def boot_id() -> str:
    """What the containers of a host have in common, and with them their locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return os.uname().nodename


def _remove_abandoned(left: Path) -> None:
    if f".{boot_id()}." not in left.name:  # another host's, or from before a reboot
        written = max(os.lstat(part).st_mtime for part in (left, *left.glob("*")))
        if time.time() - written < ABANDONED_S:
            return
    descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # NFS: none but SH for reading
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{boot_id()}.{uuid.uuid4().hex[:16]}")


def _nameless(folder: Path) -> int | None:
    """A locked file without a name, which can be given one; None where there is no such thing."""
    if not os.path.isdir("/proc/self/fd"):
        return None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:  # whatever else is wrong will be told of a file with a name
        return None
    _lock(descriptor)
    return descriptor


def _lock(descriptor: int) -> bool:
    """Whether it is this process's now; also where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _in_order(
    make: Callable[[int], np.ndarray], num_images: int, num_workers: int
) -> Iterator[np.ndarray | str]:
    """What `make` gives, or why it gives none; a few images ahead of what was asked for."""

    def attempt(index: int) -> np.ndarray | str:
        try:
            return make(index)
        except (CorruptImage, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(num_workers, thread_name_prefix="pack") as workers:
        indices = iter(range(num_images))
        started = [workers.submit(attempt, i) for i in islice(indices, num_workers * AHEAD)]
        while started:
            yield started.pop(0).result()
            started += [workers.submit(attempt, i) for i in islice(indices, 1)]
