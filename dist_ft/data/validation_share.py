"""Takes validation images from the training images, the same ones on every machine.

Each picture has a position in 0..1, a hash of (seed, bytes of the file). Those below the share are
validation images. So the choice does not depend on names, order, labels or other pictures, and
added images leave the others where they are. The number of validation images of a class is thus not
exact: for n pictures and a share p it has mean n p and standard deviation sqrt(n p (1 - p)), as 70
+- 8 for 700 pictures and a share of 0.1.

Files that show the same picture (see `duplicates.find_groups`) have the position of the one with
the smallest digest, so they are on one side; an added duplicate may move its group. A class with
several pictures has some on both sides: if chance does not do it, its picture closest to the share
moves.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Sequence

from dist_ft.data import duplicates
from dist_ft.data.dataset import Dataset, DatasetError, Split
from dist_ft.data.duplicates import ImageFile, InspectedImage
from dist_ft.files import atomic_file

VERSION = 1  # to be raised when the same files give another choice than before


class Picture(NamedTuple):
    """Files that show one picture."""

    position: float  # 0..1
    indices: tuple[int, ...]  # in the split
    labels: frozenset[int]


def choose(split: Split, share: float, seed: int, cache: Path) -> list[int]:
    """The indices of the training images that become validation images, ascending.

    Reads all images, on threads, unless the folder `cache` has the result of earlier. Unreadable
    images stay in train. Raises DatasetError if no class can be divided.
    """
    key = json.dumps([VERSION, split.stamp(), share, seed, duplicates.MIN_SIMILARITY])
    path = cache / f"validation-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    files = [
        ImageFile("train", str(label), str(index), partial(split.read, index))
        for index, label in enumerate(split.labels)
    ]
    images, _ = duplicates.inspect(files)
    chosen = divide(pictures_of(images, split.labels, seed), share)
    if not chosen:
        raise DatasetError(f"{split.root}: --val-share: no class has two different pictures")
    indices = sorted(index for picture in chosen for index in picture.indices)
    with suppress(OSError), atomic_file(path) as temporary:  # without a cache it only takes longer
        temporary.write_text(json.dumps(indices))
    return indices


def take(dataset: Dataset, indices: Sequence[int]) -> Dataset:
    """The data set with these training images as val; without any, it stays as it is."""
    if not indices:
        return dataset
    train, chosen = dataset.train, set(indices)
    rest = [index for index in range(len(train)) if index not in chosen]
    val = replace(train.subset(indices), skipped=())
    return replace(dataset, train=train.subset(rest), val=val)


def pictures_of(
    images: Sequence[InspectedImage], labels: Sequence[int], seed: int
) -> list[Picture]:
    """images: their paths are indices into `labels`."""
    digest_of = {int(image.file.path): image.digest for image in images}
    groups = [[int(f.path) for f in group.files] for group in duplicates.find_groups(images)]
    grouped = {index for group in groups for index in group}
    groups += [[index] for index in digest_of if index not in grouped]
    return [
        Picture(
            _position(seed, min(digest_of[index] for index in group)),
            tuple(group),
            frozenset(labels[index] for index in group),
        )
        for group in groups
    ]


def _position(seed: int, digest: bytes) -> float:
    mixed = hashlib.blake2b(digest, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(mixed, "little") / 2**64


def divide(pictures: Sequence[Picture], share: float) -> set[Picture]:
    """The pictures that become validation images.

    Train keeps a picture of every class, and so does val if a class has several: except if they are
    pictures of several classes.
    """
    chosen = {picture for picture in pictures if picture.position < share}
    by_class: dict[int, list[Picture]] = {}
    # Pictures of several classes last, as moving them affects the other classes.
    for picture in sorted(pictures, key=lambda p: (len(p.labels), p.position)):
        for label in sorted(picture.labels):
            by_class.setdefault(label, []).append(picture)
    for own in by_class.values():
        if len(own) > 1 and chosen.isdisjoint(own):
            chosen.add(own[0])
    for own in by_class.values():
        if chosen.issuperset(own):
            chosen.remove(max(own, key=lambda p: (-len(p.labels), p.position)))
    return chosen
