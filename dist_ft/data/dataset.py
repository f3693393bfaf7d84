"""A data set: the labeled images of its splits, and their fingerprints."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Iterable, Mapping, Sequence

from dist_ft import split_names
from dist_ft.errors import UserError
from dist_ft.text import canonical


class DatasetError(UserError):
    """A data set that cannot be trained on. The message names its folder and the remedy."""


@dataclass(frozen=True)
class Split:
    """The images of one split, sorted by class and file name."""

    root: Path
    paths: tuple[str, ...]  # relative to root: CLASS/NAME
    labels: tuple[int, ...]  # the index of each image's class in Dataset.classes
    skipped: tuple[str, ...]  # other files in the class directories

    PER_IMAGE: ClassVar[tuple[str, ...]] = ("paths", "labels")  # fields with a value per image

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError."""
        with open(os.path.join(self.root, self.paths[index]), "rb") as file:
            return file.read()

    def subset(self, indices: Sequence[int]) -> Split:
        """Some of the images, in the order of `indices`, with the same `skipped`."""
        chosen: dict[str, Any] = {}
        for name in self.PER_IMAGE:
            values = getattr(self, name)
            chosen[name] = tuple(values[index] for index in indices)
        return replace(self, **chosen)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on every image's path, label and size in bytes.

        Copies of a data set whose names differ in their Unicode form only have the same.
        """
        digest = hashlib.sha256()
        for path, label, size in zip(self.paths, self.labels, self.sizes()):
            digest.update(
                f"{canonical(path)}\0{label}\0{size}\n".encode("utf-8", "surrogateescape")
            )
        return digest.hexdigest()[:16]

    def stamp(self) -> str:
        """Like `fingerprint`, but also depends on every file's modification time."""
        times = (os.stat(file).st_mtime_ns for file in self._files())
        text = " ".join([self.fingerprint(), *map(str, times)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sizes(self) -> Iterable[int]:
        """The size of each encoded image in bytes."""
        return (os.stat(file).st_size for file in self._files())

    def _files(self) -> Iterable[str]:
        return (os.path.join(self.root, path) for path in self.paths)


@dataclass(frozen=True)
class Dataset:
    """The class names and the splits. If there is no `val`, there is a `test`."""

    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    val: Split | None = None
    division: str = ""  # how the images of a folder were chosen and divided; names caches

    @classmethod
    def of_splits(cls, classes: Sequence[str], splits: Mapping[str, Split]) -> Dataset:
        """splits: by name, as in `splits`."""
        return cls(tuple(classes), splits["train"], splits.get("test"), splits.get("val"))

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are, by name, in the order train, val, test."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def selection_name(self) -> str:
        """The split that selects the best epoch: 'val' or, if there is none, 'test'."""
        return "test" if self.val is None else "val"

    @property
    def selection(self) -> Split:
        return self.splits[self.selection_name]


def check_no_val(root: Path, names: Iterable[str]) -> None:
    """Raises DatasetError if validation images would be both taken from train and found in root.

    names: of the folders or archives in `root`, as split_names has them.
    """
    found = split_names.find("val", names)
    if found:
        raise DatasetError(
            f"{root}: has validation images already, {found[0]}; remove them, or drop --val-share"
        )
