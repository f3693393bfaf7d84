"""Which files of a data set show the same picture: by their bytes, their pixels, or to the eye."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Callable, Iterator, NamedTuple, Sequence

import numpy as np
from tqdm import tqdm

from dist_ft.data.dataset import Split
from dist_ft.data.decoding import CorruptImage, decode, open_image
from dist_ft.data.image_folder import Dataset
from dist_ft.diagnostics.perceptual_hash import SIDE, similar_pairs, similarity, sketch
from dist_ft.distributed import launcher

LEAST = 0.9  # similarity: of 64 px photographs, copies have 0.98 and more, strangers below 0.7
AHEAD = 256  # images a worker that are begun together

BYTES, PIXELS, ALTERED, MIRRORED = "bytes", "pixels", "altered", "mirrored"


class Image(NamedTuple):
    """An image of a data set, not read yet."""

    split: str  # "train" or "test"
    label: str
    path: str
    read: Callable[[], bytes]


class Look(NamedTuple):
    """What is kept of an image that was read."""

    image: Image
    digest: bytes  # of the file's bytes
    height: int
    width: int
    sketch: np.ndarray  # see likeness.sketch


class Copy(NamedTuple):
    """A file that shows the picture of another one."""

    image: Image
    how: str  # BYTES: the same bytes; PIXELS: the same pixels; ALTERED; MIRRORED, altered or not
    similarity: float  # see likeness.similarity


class Group(NamedTuple):
    """Files that show one picture: the first of them, and how each other one is like it."""

    first: Image
    copies: tuple[Copy, ...]

    @property
    def images(self) -> list[Image]:
        return [self.first, *(copy.image for copy in self.copies)]


def images(folder: Dataset) -> list[Image]:
    """A data set's images, those of train first."""
    return [*_images(folder, folder.train, "train"), *_images(folder, folder.test, "test")]


def _images(folder: Dataset, split: Split, name: str) -> Iterator[Image]:
    for index, (path, label) in enumerate(zip(split.paths, split.labels)):
        yield Image(name, folder.classes[label], str(split.root / path), partial(split.read, index))


def look(image: Image) -> Look:
    """Raises CorruptImage, and OSError for a file that cannot be read."""
    data = image.read()
    digest = hashlib.blake2b(data, digest_size=16).digest()
    seen = open_image(data)
    # A JPEG is decoded at a quarter, say; twice the side, since cutting to whole px shifts edges.
    small = seen.crop((0, 0, seen.width, seen.height), 2 * SIDE)
    return Look(image, digest, seen.height, seen.width, sketch(small))


def look_at(images: Sequence[Image]) -> tuple[list[Look], dict[str, str]]:
    """What was seen of the images, in their order, and what is wrong with each unreadable path.

    Reads on threads, with a progress bar on a terminal.
    """
    looks, unreadable = [], {}
    num_workers = launcher.usable_cores()
    bar = tqdm(total=len(images), desc="looking", unit="images", disable=not sys.stderr.isatty())
    with bar, ThreadPoolExecutor(num_workers, thread_name_prefix="look") as workers:
        for begin in range(0, len(images), AHEAD * num_workers):  # so that Ctrl-C is heard
            some = images[begin : begin + AHEAD * num_workers]
            for image, seen in zip(some, workers.map(_look, some)):
                bar.update()
                if isinstance(seen, Look):
                    looks.append(seen)
                else:
                    unreadable[image.path] = seen
    return looks, unreadable


def _look(image: Image) -> Look | str:
    try:
        return look(image)
    except (OSError, CorruptImage) as error:
        return str(error)


def groups(looks: Sequence[Look], least: float = LEAST) -> list[Group]:
    """The images that show the picture of another one, in groups of the same picture.

    Groups and their members are in the order of `looks`. least: the similarity, up to 1, of
    pictures that count as the same; two that are less similar are in one group where a third is
    similar to both. Plain pictures are compared by their bytes alone.
    """
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for index, seen in enumerate(looks):
        by_digest[seen.digest].append(index)
    same_bytes = list(by_digest.values())  # of which one each is compared with the others
    parent = list(range(len(same_bytes)))
    sketches = [looks[indices[0]].sketch for indices in same_bytes]
    pairs = similar_pairs(np.stack(sketches), least) if sketches else ()
    for first, second in zip(*(indices.tolist() for indices in pairs)):
        a, b = sorted((_root(parent, first), _root(parent, second)))
        parent[b] = a
    members: dict[int, list[int]] = defaultdict(list)
    for number, indices in enumerate(same_bytes):
        members[_root(parent, number)].extend(indices)
    return [_group([looks[i] for i in sorted(m)]) for m in members.values() if len(m) > 1]


def _root(parent: list[int], index: int) -> int:
    """The least of the set of which index is a member, as a tree of parents."""
    while parent[index] != index:
        parent[index] = index = parent[parent[index]]
    return index


def _group(members: Sequence[Look]) -> Group:
    first, *others = members
    return Group(first.image, tuple(_copy(first, other) for other in others))


def _copy(first: Look, other: Look) -> Copy:
    if first.digest == other.digest:
        return Copy(other.image, BYTES, 1.0)
    value, is_mirrored = similarity(first.sketch, other.sketch)
    if is_mirrored:
        return Copy(other.image, MIRRORED, float(value))
    same_size = (first.height, first.width) == (other.height, other.width)
    if same_size and _same_pixels(first.image, other.image):
        return Copy(other.image, PIXELS, 1.0)
    return Copy(other.image, ALTERED, float(value))


def _same_pixels(a: Image, b: Image) -> bool:
    return np.array_equal(decode(a.read()), decode(b.read()))
