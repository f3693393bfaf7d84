"""A run's cache of decoded images: one per host, in memory or on disk.

A training image is cached with its shorter side reduced, as by `im2rec --resize`. One of another
split is cached as its center crop, so that scores are the same as without a cache.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, ContextManager, NamedTuple, Sequence

import cv2
import numpy as np

from dist_ft.data import decoding, heif, pixel_file, transforms
from dist_ft.data.dataset import Dataset, Split
from dist_ft.data.locked_files import boot_id, remove_abandoned
from dist_ft.data.pixel_file import PixelFile, PixelFileWriter
from dist_ft.data.transforms import InputSpec
from dist_ft.files import user_errors

if TYPE_CHECKING:
    from dist_ft.distributed.world import World

PIXELS_VERSION = 3  # to be raised when the same files give other pixels than before
SHARED_MEMORY = Path("/dev/shm")  # a file system in memory on every Linux

logger = logging.getLogger(__name__)


class CacheFile(NamedTuple):
    """The pixel file of one split, which may not exist yet."""

    path: Path
    key: str  # identifies the images and how they are loaded
    split: Split
    load: pixel_file.Load

    def is_valid(self) -> bool:
        """False if it does not exist, is truncated, or was made from other images."""
        try:
            PixelFile(self.path, self.key)
        except (OSError, ValueError):
            return False
        return True

    def errors(self) -> ContextManager[None]:
        """Converts an OSError of writing the file into a UserError."""
        return user_errors(
            f"--cache: {self.path.parent}",
            remedy="make room (docker run --shm-size enlarges /dev/shm), or choose a smaller"
            " --cache-side, another --cache-dir, or --cache off",
        )


def cache_files(dataset: Dataset, spec: InputSpec, side: int, folder: Path) -> dict[str, CacheFile]:
    """The cache file of each split in `folder`, by the split's name.

    side: training images whose shorter side is larger are reduced to it, px.
    """
    crop = "-".join(str(int(value)) for value in spec)
    files = {}
    for name, split in dataset.splits.items():
        is_train = name == "train"
        load = partial(load_resized, split, side) if is_train else partial(_load_crop, split, spec)
        kind = f"{name}-{side if is_train else crop}"
        files[name] = _cache_file(folder, dataset.division, kind, split, load)
    return files


def open_cache(
    dataset: Dataset,
    spec: InputSpec,
    side: int,
    place: str,
    folder: Path,
    num_workers: int,
    world: World,
) -> dict[str, PixelFile]:
    """The decoded images of each split, by its name.

    The first rank of each host decodes those that are missing. place: 'ram' for a cache that ends
    with the run, or 'disk' for one in `folder`. side: see `cache_files`. Raises UserError if the
    cache cannot be written.
    """
    by_split = cache_files(dataset, spec, side, folder)
    log = logger.info if world.is_main else logger.debug
    if place == "ram":  # under a name that is unique to the run
        run = f"{world.gather(uuid.uuid4().hex)[0]}.{boot_id()}"
        by_split = {
            name: f._replace(path=SHARED_MEMORY / f"dist_ft-{run}.{f.path.name}")
            for name, f in by_split.items()
        }
    files = list(by_split.values())
    num_images = sum(len(file.split) for file in files)
    world.heartbeat("decoding the images once", 600 + 0.2 * num_images)
    with ExitStack() as until_opened:
        with world.raise_on_all_ranks():
            if world.local_rank == 0 and place == "ram":
                _build_in_memory(files, num_workers, log, until_opened)
            elif world.local_rank == 0:
                _build_missing(files, num_workers, log)
        with world.raise_on_all_ranks():
            cache = {name: PixelFile(file.path, file.key) for name, file in by_split.items()}
    size_mb = sum(pixels.num_bytes for pixels in cache.values()) / 1e6
    log(f"cache: {size_mb:,.0f} MB in {files[0].path.parent}")
    return cache


def build(file: CacheFile, num_workers: int, on_image: Callable[[], object] = lambda: None) -> None:
    """Decodes a split's images into its cache file. Raises UserError if it cannot be written."""
    with file.errors():
        file.path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(file.path.parent, ".*.pack.*")
        pixel_file.write(file.path, file.key, len(file.split), file.load, num_workers, on_image)


def load_resized(split: Split, side: int, index: int) -> np.ndarray:
    """An image, reduced if its shorter side exceeds `side` px. Raises CorruptImage and OSError."""
    pixels = decoding.decode(split.read(index))
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _load_crop(split: Split, spec: InputSpec, index: int) -> np.ndarray:
    return transforms.center_crop(decoding.decode(split.read(index)), *spec)


def _build_missing(
    files: Sequence[CacheFile], num_workers: int, log: Callable[[str], None]
) -> None:
    for file in files:
        if not file.is_valid():
            log(_progress(file))
            build(file, num_workers)


def _build_in_memory(
    files: Sequence[CacheFile],
    num_workers: int,
    log: Callable[[str], None],
    until_opened: ExitStack,
) -> None:
    """Decodes the images into shared memory, where a named file would remain until a reboot.

    The files get names only when all are complete, and lose them when `until_opened` is closed,
    after the other ranks of the host have opened them. Their memory is freed with the last rank.
    """
    remove_abandoned(SHARED_MEMORY, "*dist_ft-*.pack*")
    writers = []
    for file in files:
        log(_progress(file))
        with file.errors():
            writer = until_opened.enter_context(PixelFileWriter(file.path))
            writer.fill(file.key, len(file.split), file.load, num_workers)
        writers.append(writer)
    for file, writer in zip(files, writers):
        until_opened.callback(file.path.unlink, missing_ok=True)
        with file.errors():
            writer.finish()


def _progress(file: CacheFile) -> str:
    return f"decoding {len(file.split)} images of {file.split.root} once"


def _cache_file(
    folder: Path, division: str, kind: str, split: Split, load: pixel_file.Load
) -> CacheFile:
    # The name depends on the data set's path and the key on its contents, so that the file of a
    # changed data set replaces the old one, but not that of another division of the same images.
    source = f"{split.root.resolve()}{division}".encode("utf-8", "surrogateescape")
    path = folder / f"{hashlib.sha256(source).hexdigest()[:12]}-{kind}.pack"
    # An image that could not be decoded is in the file, too: decode again with more decoders.
    decoders = "heif " if heif.is_plugin_installed() else ""
    return CacheFile(path, f"{kind} {PIXELS_VERSION} {decoders}{split.stamp()}", split, load)
