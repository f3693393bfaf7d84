"""The packs of a run: its images decoded once for a host, in memory or on disk.

A training image is kept with a shorter side of so many px, as `im2rec --resize` keeps it; a test
image as the very view that is scored, so that scores are those of a run without a cache.
"""

from __future__ import annotations

import hashlib
import uuid
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import cv2
import numpy as np

from dist_ft.data import decoding, pixel_file, transforms
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.pixel_file import PixelFile, PixelFileWriter
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError

MEMORY = Path("/dev/shm")  # the one file system that is memory on every Linux


class Wanted(NamedTuple):
    """A pack as it should be."""

    path: Path
    key: str
    split: Split
    make: Callable[[int], np.ndarray]

    def is_there(self) -> bool:
        try:
            PixelFile(self.path, self.key)
        except (OSError, ValueError):  # none yet, of another state of the images, or cut off
            return False
        return True


def open_cache(
    folder: Dataset,
    views: InputSpec,
    side: int,
    place: str,
    kept_in: Path,
    num_workers: int,
    world: Any,
    say: Callable[[str], None],
) -> tuple[PixelFile, PixelFile]:
    """The packs of train and test, decoded by the first rank of each host where need be.

    place: 'ram', for as long as the run lasts, or 'disk', in the folder `kept_in`; side: px of a
    training image's shorter side. Raises UserError where there is no room for them.
    """
    in_memory = place == "ram"
    wanted = cache_files(folder, views, side, kept_in)
    if in_memory:  # under a name that no other run has
        run = f"{world.gather(uuid.uuid4().hex)[0]}.{pixel_file.boot_id()}"
        wanted = tuple(w._replace(path=MEMORY / f"dist_ft-{run}.{w.path.name}") for w in wanted)
    world.heartbeat("decoding the images once", 600 + 0.2 * (len(folder.train) + len(folder.test)))
    with ExitStack() as until_opened:
        with world.raise_on_all_ranks():
            if world.local_rank == 0:
                if in_memory:
                    _lend(wanted, num_workers, say, until_opened)
                else:
                    _keep(wanted, num_workers, say)
        with world.raise_on_all_ranks():
            train, test = (PixelFile(one.path, one.key) for one in wanted)
    say(f"cache: {(train.num_bytes + test.num_bytes) / 1e6:,.0f} MB in {wanted[0].path.parent}")
    return train, test


def cache_files(
    folder: Dataset, views: InputSpec, side: int, kept_in: Path
) -> tuple[Wanted, Wanted]:
    """The packs of a data set, and where they belong."""
    train = partial(load_resized, folder.train, side)
    test = partial(_centred, folder.test, views)
    return (
        _wanted(folder.train, f"train-{side}", kept_in, train),
        _wanted(folder.test, f"test-{'-'.join(map(str, map(int, views)))}", kept_in, test),
    )


def build(wanted: Wanted, num_workers: int, made: Callable[[], None] = lambda: None) -> None:
    """Decodes a split's images into its pack. Raises UserError where that cannot be written."""
    with _room_for(wanted):
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        pixel_file.remove_abandoned(wanted.path.parent, ".*.pack.*")
        pixel_file.write(wanted.path, wanted.key, len(wanted.split), wanted.make, num_workers, made)


def _keep(wanted: Sequence[Wanted], num_workers: int, say: Callable[[str], None]) -> None:
    for one in wanted:
        if not one.is_there():
            say(_of_what(one))
            build(one, num_workers)


def _lend(
    wanted: Sequence[Wanted],
    num_workers: int,
    say: Callable[[str], None],
    until_opened: ExitStack,
) -> None:
    """Decodes into memory, where a file with a name stays until a reboot: they have one from when
    the last is whole until the others of this host have opened them, and go with the last rank."""
    pixel_file.remove_abandoned(MEMORY, "*dist_ft-*.pack*")
    decoded = []
    for one in wanted:
        say(_of_what(one))
        with _room_for(one):
            decoded.append(until_opened.enter_context(PixelFileWriter(one.path)))
            decoded[-1].fill(one.key, len(one.split), one.make, num_workers)
    for one, unfinished in zip(wanted, decoded):
        until_opened.callback(one.path.unlink, missing_ok=True)
        with _room_for(one):
            unfinished.finish()


def _of_what(wanted: Wanted) -> str:
    return f"decoding {len(wanted.split)} images of {wanted.split.root} once"


@contextmanager
def _room_for(wanted: Wanted) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--cache: {wanted.path.parent}: {error.strerror}: make room (docker run --shm-size"
            " gives /dev/shm more), choose a smaller --cache-side, another --cache-dir, or"
            " --cache off"
        ) from error


def _wanted(split: Split, what: str, kept_in: Path, make) -> Wanted:
    # The place names the data set and the key its state, so that a new state replaces the old one.
    place = hashlib.sha256(str(split.root.resolve()).encode("utf-8", "surrogateescape"))
    name = f"{place.hexdigest()[:12]}-{what}.pack"
    return Wanted(kept_in / name, f"{what} {split.stamp()}", split, make)


def load_resized(split: Split, side: int, index: int) -> np.ndarray:
    """An image whose shorter side is at most so many px. Raises CorruptImage and OSError."""
    pixels = decoding.decode(split.read(index))
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _centred(split: Split, views: InputSpec, index: int) -> np.ndarray:
    return transforms.center_crop(decoding.decode(split.read(index)), *views)
