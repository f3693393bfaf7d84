"""A memory-mapped file of decoded images, of which all ranks of a host share one copy.

The pixels of all images come first, one image after the other. The index follows, as JSON: each
image's height and width, the reason for each unreadable image, and the key of the file's source.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from dist_ft.data.image import CorruptImage, DecodedImage
from dist_ft.data.locked_files import create_locked, link_unnamed, open_unnamed

MAGIC = b"dist_ft1"
FOOTER = struct.Struct(f"<QQ{len(MAGIC)}s")  # begin and length of the index, MAGIC
MAX_WAITING = 16  # images per worker that wait for their turn to be written

Load = Callable[[int], np.ndarray]  # image index -> (h, w, 3) uint8


def _nothing() -> None:
    pass


class PixelFile:
    """A complete file. Raises ValueError if it is truncated or has another key."""

    def __init__(self, path: Path, key: str):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < FOOTER.size:
            raise ValueError(f"{path}: truncated")
        begin, length, magic = FOOTER.unpack_from(self._map, len(self._map) - FOOTER.size)
        if magic != MAGIC or begin + length + FOOTER.size != len(self._map):
            raise ValueError(f"{path}: truncated, or not a file of decoded images")
        index = json.loads(self._map[begin : begin + length])
        if index["key"] != key:
            raise ValueError(f"{path}: made from other images")
        self._shapes = [tuple(shape) for shape in index["shapes"]]
        sizes = [height * width * 3 for height, width in self._shapes]
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._unreadable = {int(image): reason for image, reason in index["bad"].items()}

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def num_bytes(self) -> int:
        return len(self._map)

    def image(self, index: int) -> DecodedImage:
        """An image, whose pixels are read-only. Raises CorruptImage if it was unreadable."""
        if index in self._unreadable:
            raise CorruptImage(self._unreadable[index])
        begin, (height, width) = int(self._begins[index]), self._shapes[index]
        pixels = np.frombuffer(self._map, np.uint8, height * width * 3, begin)
        return DecodedImage(pixels.reshape(height, width, 3))


def write(
    path: Path,
    key: str,
    num_images: int,
    load: Load,
    num_workers: int,
    on_image: Callable[[], object] = _nothing,
) -> None:
    """Writes the pixels that `load` returns for each index, atomically.

    CorruptImage and OSError of `load` are stored as the image's reason; any other error ends the
    writing. on_image: called after each image. Raises OSError, for example on a full disk.
    """
    with PixelFileWriter(path) as writer:
        writer.fill(key, num_images, load, num_workers, on_image)
        writer.finish()


class PixelFileWriter:
    """Writes a file that appears at `path` only when `finish` is called.

    Until then it has no name, so that it vanishes if the process dies. Where the file system does
    not support that, it is a locked temporary file; see `locked_files`.
    """

    def __init__(self, path: Path):
        self._path = path
        self._temporary: Path | None = None
        descriptor = open_unnamed(path.parent)
        if descriptor is None:
            self._temporary, descriptor = create_locked(path)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> PixelFileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk: the rest of the buffer is not needed
            self._file.close()

    def fill(
        self,
        key: str,
        num_images: int,
        load: Load,
        num_workers: int,
        on_image: Callable[[], object] = _nothing,
    ) -> None:
        """Writes all images and the index; see `write`."""
        file, shapes, unreadable = self._file, [], {}
        for number, result in enumerate(_load_in_order(load, num_images, num_workers)):
            if isinstance(result, str):
                unreadable[number] = result
                result = np.empty((0, 0, 3), np.uint8)
            shapes.append(result.shape[:2])
            file.write(np.ascontiguousarray(result).data)
            on_image()
        index = json.dumps({"key": key, "shapes": shapes, "bad": unreadable}).encode()
        begin = file.tell()
        file.write(index + FOOTER.pack(begin, len(index), MAGIC))
        file.flush()
        os.fsync(file.fileno())

    def finish(self) -> None:
        """Moves the file to its path, and replaces one that is already there."""
        if self._temporary is None:
            self._temporary = link_unnamed(self._file.fileno(), self._path)
        self._temporary.replace(self._path)
        self._temporary = None


def _load_in_order(load: Load, num_images: int, num_workers: int) -> Iterator[np.ndarray | str]:
    """Each image's pixels, or the reason why it is unreadable; loaded by threads, a few ahead."""

    def attempt(index: int) -> np.ndarray | str:
        try:
            return load(index)
        except (CorruptImage, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(num_workers, thread_name_prefix="pack") as workers:
        pending: deque = deque()
        for index in range(num_images):
            pending.append(workers.submit(attempt, index))
            if len(pending) >= num_workers * MAX_WAITING:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
