"""A data set: labeled images in a training and a test split, and their fingerprints."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

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

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError."""
        with open(os.path.join(self.root, self.paths[index]), "rb") as file:
            return file.read()

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
    """The class names and the two splits."""

    classes: tuple[str, ...]
    train: Split
    test: Split
