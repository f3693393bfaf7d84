"""What a data set is: images with their labels, in two splits, and a fingerprint of each."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from dist_ft.errors import UserError


class DatasetError(UserError):
    """A data folder that cannot be trained on; the message names it and the remedy."""


@dataclass(frozen=True)
class Split:
    """The images of one split, sorted by class and name."""

    root: Path
    paths: tuple[str, ...]  # below root: CLASS/NAME
    labels: tuple[int, ...]  # an index into the folder's classes for each path
    skipped: tuple[str, ...]  # files that are no images by their name

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """An image as it was encoded. Raises OSError."""
        with open(os.path.join(self.root, self.paths[index]), "rb") as file:
            return file.read()

    def fingerprint(self) -> str:
        """Changes with any path, label or size of an image; 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for path, label, size in zip(self.paths, self.labels, self.sizes()):
            digest.update(f"{path}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def stamp(self) -> str:
        """Changes with the fingerprint, and where a file was written to since."""
        times = (os.stat(file).st_mtime_ns for file in self._files())
        text = " ".join((self.fingerprint(), *map(str, times)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sizes(self) -> Iterable[int]:
        """Bytes of each image."""
        return (os.stat(file).st_size for file in self._files())

    def _files(self) -> Iterable[str]:
        return (os.path.join(self.root, path) for path in self.paths)


@dataclass(frozen=True)
class Dataset:
    """A data set: the classes, and its two splits."""

    classes: tuple[str, ...]
    train: Split
    test: Split
