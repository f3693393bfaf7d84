"""The images of benchmarks/recipes.py, as file lists: of validation, of test, and several of train.

A tenth of the training images are validation images, the same ones for all lists of train.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np

from dist_ft.data import image_folder, validation_share
from dist_ft.data.dataset import Split
from dist_ft.files import atomic_file

VAL_SHARE = 0.1
FEW_SHARE = 0.1  # of the images of each class
WRONG_SHARE = 0.2  # of the labels of each class
RARE_SHARE = 0.05  # of the images of one class

ALL, FEW, WRONG, RARE = "all", "few", "wrong", "rare"
KINDS = (ALL, FEW, WRONG, RARE)


class Image(NamedTuple):
    """A line of a list."""

    path: str  # below the folder of the data
    class_name: str


class Lists(NamedTuple):
    """The divided images of a folder."""

    classes: tuple[str, ...]
    train: list[Image]
    val: list[Image]
    test: list[Image]

    def train_of(self, kind: str, seed: int) -> list[Image]:
        """The training images of a kind; which images it leaves out or mislabels depends on the
        seed, and also which class is rare."""
        if kind == FEW:
            return reduced(self.train, self.classes, FEW_SHARE, seed)
        if kind == RARE:
            return reduced(self.train, [self.rare_class(seed)], RARE_SHARE, seed)
        return mislabeled(self.train, WRONG_SHARE, seed) if kind == WRONG else self.train

    def rare_class(self, seed: int) -> str:
        return self.classes[seed % len(self.classes)]

    def write(self, kind: str, seed: int, folder: Path) -> dict[str, str]:
        """Writes lists for a run; returns the settings that name them."""
        images = {
            f"train-{kind}-{seed}": self.train_of(kind, seed),
            "val": self.val,
            "test": self.test,
        }
        paths = []
        for name, rows in images.items():
            paths.append(folder / f"{name}.csv")
            with atomic_file(paths[-1]) as temporary, open(temporary, "w", newline="") as file:
                csv.writer(file).writerows([("path", "label"), *rows])
        return dict(zip(("train_list", "val_list", "test_list"), map(str, paths)))


def divide(data: Path, cache: Path) -> Lists:
    """Divides DATA/train/CLASS/* and DATA/test/CLASS/*. Raises DatasetError.

    cache: folder for the choice of the validation images, which reads all images.
    """
    dataset = image_folder.scan(str(data))
    train = _images(dataset.train, dataset.classes, data)
    chosen = set(validation_share.choose(dataset.train, VAL_SHARE, 0, cache))
    return Lists(
        dataset.classes,
        [image for index, image in enumerate(train) if index not in chosen],
        [image for index, image in enumerate(train) if index in chosen],
        _images(dataset.test, dataset.classes, data),
    )


def _images(split: Split, classes: Sequence[str], data: Path) -> list[Image]:
    folder = Path(split.root).relative_to(data).as_posix()
    return [Image(f"{folder}/{p}", classes[label]) for p, label in zip(split.paths, split.labels)]


def reduced(
    images: Sequence[Image], classes: Sequence[str], share: float, seed: int
) -> list[Image]:
    """The images, of these classes only a share: at least one of each, drawn by the seed."""
    dropped: set[Image] = set()
    for class_name, own in _by_class(images, seed).items():
        if class_name in classes:
            dropped.update(own[max(1, round(share * len(own))) :])
    return [image for image in images if image not in dropped]


def mislabeled(images: Sequence[Image], share: float, seed: int) -> list[Image]:
    """The images, a share of each class with the label of one of the other classes."""
    rng, label_of = np.random.RandomState(seed), {}
    by_class = _by_class(images, seed)
    for class_name, own in by_class.items():
        others = [name for name in by_class if name != class_name]
        for image in own[: round(share * len(own))]:
            label_of[image] = others[rng.randint(len(others))]
    return [Image(image.path, label_of.get(image, image.class_name)) for image in images]


def _by_class(images: Sequence[Image], seed: int) -> dict[str, list[Image]]:
    """The images of each class, in an order drawn by the seed."""
    grouped: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        grouped[image.class_name].append(image)
    rng = np.random.RandomState(seed)
    return {name: [own[i] for i in rng.permutation(len(own))] for name, own in grouped.items()}
