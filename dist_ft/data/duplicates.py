"""Finds files of a data set that show the same picture: same bytes, same pixels, or similar."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from dist_ft.data.decoding import decode, open_image
from dist_ft.data.image import CorruptImage
from dist_ft.data.perceptual_hash import SIDE, perceptual_hash, similar_pairs, similarity
from dist_ft.distributed import threads

# Similarity from which pictures count as the same. Measured on 64 px photographs: copies have 0.98
# and more, different pictures less than 0.7.
MIN_SIMILARITY = 0.9
IMAGES_PER_WORKER = 256  # submitted at a time, so that Ctrl-C is noticed

BYTES, PIXELS, ALTERED, MIRRORED = "bytes", "pixels", "altered", "mirrored"


class ImageFile(NamedTuple):
    """An image of a data set that has not been read yet."""

    split: str  # "train", "val" or "test"
    class_name: str
    path: str
    read: Callable[[], bytes]


class InspectedImage(NamedTuple):
    """What is kept of an image after it was read."""

    file: ImageFile
    digest: bytes  # of the file's bytes
    height: int
    width: int
    hash: np.ndarray  # see perceptual_hash


class Duplicate(NamedTuple):
    """A file that shows the same picture as the first one of its group."""

    file: ImageFile
    kind: str  # BYTES, PIXELS, ALTERED, or MIRRORED (which may be altered, too)
    similarity: float  # to the first one, up to 1


class Group(NamedTuple):
    """Files that show the same picture."""

    first: ImageFile
    duplicates: tuple[Duplicate, ...]

    def as_json(self) -> dict[str, Any]:
        copies = [
            {"path": file.path, "how": kind, "similarity": round(similarity, 4)}
            for file, kind, similarity in self.duplicates
        ]
        return {"first": self.first.path, "copies": copies}

    @property
    def files(self) -> list[ImageFile]:
        return [self.first, *(duplicate.file for duplicate in self.duplicates)]


def inspect(files: Sequence[ImageFile]) -> tuple[list[InspectedImage], dict[str, str]]:
    """Reads and hashes images on threads, with a progress bar on a terminal.

    Returns the images in the given order, and the reason for each path that is unreadable.
    """
    inspected: list[InspectedImage] = []
    unreadable: dict[str, str] = {}
    num_workers = threads.usable_cores()
    chunk = IMAGES_PER_WORKER * num_workers
    bar = tqdm(total=len(files), desc="reading", unit="images", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(num_workers, thread_name_prefix="inspect") as workers:
        for start in range(0, len(files), chunk):
            part = files[start : start + chunk]
            for file, result in zip(part, workers.map(_inspect_one, part)):
                bar.update()
                if isinstance(result, InspectedImage):
                    inspected.append(result)
                else:
                    unreadable[file.path] = result
    return inspected, unreadable


def _inspect_one(file: ImageFile) -> InspectedImage | str:
    """Returns the reason if the image is unreadable."""
    try:
        data = file.read()
        image = open_image(data)
        # Lets a JPEG be decoded at reduced size. Twice the side of the hash is needed, since
        # reduced sizes are rounded to whole pixels, which shifts edges.
        small = image.crop((0, 0, image.width, image.height), 2 * SIDE)
    except (OSError, CorruptImage) as error:
        return str(error)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return InspectedImage(file, digest, image.height, image.width, perceptual_hash(small))


def find_groups(
    images: Sequence[InspectedImage], min_similarity: float = MIN_SIMILARITY
) -> list[Group]:
    """Groups images that show the same picture; images without duplicates are in no group.

    Groups and their members keep the order of `images`. Similarity is treated as transitive: two
    images are in one group if a third is similar to both. Images of a single color have no
    perceptual hash and are compared by their bytes only.
    """
    if not images:
        return []
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_digest[image.digest].append(index)
    identical = list(by_digest.values())  # only the first image of each list is compared
    hashes = np.stack([images[indices[0]].hash for indices in identical])
    pairs = similar_pairs(hashes, min_similarity)
    graph = coo_matrix((np.ones(pairs.shape[1]), pairs), shape=(len(identical),) * 2)
    members: dict[int, list[int]] = defaultdict(list)
    for label, indices in zip(connected_components(graph, directed=False)[1], identical):
        members[label].extend(indices)
    groups = []
    for indices in members.values():
        if len(indices) > 1:
            first, *others = (images[index] for index in sorted(indices))
            groups.append(Group(first.file, tuple(_compare(first, o) for o in others)))
    return groups


def _compare(first: InspectedImage, other: InspectedImage) -> Duplicate:
    if first.digest == other.digest:
        return Duplicate(other.file, BYTES, 1.0)
    value, is_mirrored = similarity(first.hash, other.hash)
    if is_mirrored:
        return Duplicate(other.file, MIRRORED, float(value))
    same_size = (first.height, first.width) == (other.height, other.width)
    if same_size and np.array_equal(decode(first.file.read()), decode(other.file.read())):
        return Duplicate(other.file, PIXELS, 1.0)
    return Duplicate(other.file, ALTERED, float(value))
