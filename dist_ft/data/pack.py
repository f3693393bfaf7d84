"""Decoded images in one file, memory-mapped, so that all ranks of a host share one copy of them.

The pixels stand one image after another, then comes the index: where each begins, its height and
width, what is wrong with those that could not be read, and the key of what the file was made from.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from dist_ft.data.image import CorruptImage, Pixels

MAGIC = b"dist_ft1"
END = struct.Struct(f"<QQ{len(MAGIC)}s")  # where the index begins, its length, the magic bytes
AHEAD = 16  # images being made a worker, before they are written


class Pack:
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

    def picture(self, index: int) -> Pixels:
        """An image's pixels. Raises CorruptImage where it could not be read."""
        if index in self._bad:
            raise CorruptImage(self._bad[index])
        begin, (height, width) = int(self._begins[index]), self._shapes[index]
        pixels = np.frombuffer(self._map, np.uint8, height * width * 3, begin)
        return Pixels(pixels.reshape(height, width, 3))


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
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    shapes, bad = [], {}
    try:
        with open(beside, "wb") as file:
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
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
