"""Reads a data set from disk: class directories of images, or RecordIO archives."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Callable

from dist_ft import split_names
from dist_ft.data import recordio
from dist_ft.data.dataset import Dataset, DatasetError, Split
from dist_ft.text import canonical

# Of images; other files in a class directory are skipped.
EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp",
    ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".heic", ".heif", ".avif",
)  # fmt: skip


# A shell command that works in any folder of class folders. The lists of files are complete before
# the first file is moved.
SPLIT_COMMAND = (
    '(cd {root} && for c in ./*/; do i=0; for f in "$c"*; do i=$((i+1)); s=train;'
    ' [ $((i%5)) -ne 1 ] || s=test; mkdir -p "$s/$c" && mv "$f" "$s/$c"; done; done)'
)


def scan(root: str) -> Dataset:
    """The data set in `root`.

    That is train/CLASS/* and test/CLASS/*, or the RecordIO archives train*.rec and test*.rec; see
    split_names for other names. The classes are the directories in train that contain an image,
    sorted by name in Unicode's composed form. Raises DatasetError if a folder is missing, if there
    are fewer than two classes, or if the splits have different classes.
    """
    if recordio.has_archives(Path(root)):
        return recordio.scan(Path(root))
    train_root, test_root = _find_splits(Path(root))
    train, test = find_classes(train_root), find_classes(test_root)
    if len(train) < 2:
        content = f"only {next(iter(train))!r}" if train else "no class directory with images"
        raise DatasetError(
            f"{train_root}: {content}; a classifier needs at least two, as train/CLASS/IMAGE.jpg"
        )
    missing = [
        f"{split_root} lacks {', '.join(sorted(lacking))}"
        for split_root, lacking in (
            (train_root, test.keys() - train.keys()),
            (test_root, train.keys() - test.keys()),
        )
        if lacking
    ]
    if missing:
        raise DatasetError(f"{'; '.join(missing)}: both must have images of the same classes")
    return Dataset(tuple(train), list_images(train_root, train), list_images(test_root, test))


def find_classes(root: Path) -> dict[str, str]:
    """The visible directories in `root` that contain an image, by class, sorted.

    A class is the directory's name in NFC. Raises DatasetError if two directories have the same.
    """
    classes: dict[str, str] = {}
    for name in _directories(root):
        if name.startswith(".") or not any(map(_is_image, os.scandir(root / name))):
            continue  # .ipynb_checkpoints
        other = classes.setdefault(canonical(name), name)
        if other != name:
            raise DatasetError(
                f"{root}: {other!a} and {name!a} are the same name in two Unicode forms;"
                " move the images into one of them"
            )
    return dict(sorted(classes.items()))


def list_images(root: Path, classes: dict[str, str]) -> Split:
    """The images of these classes, from `find_classes`; a label is the position among them."""
    paths, labels, skipped = [], [], []
    for label, directory in enumerate(classes.values()):
        for entry in sorted(
            os.scandir(root / directory), key=lambda e: (canonical(e.name), e.name)
        ):
            path = f"{directory}/{entry.name}"
            if _is_image(entry):
                paths.append(path)
                labels.append(label)
            else:
                skipped.append(path)
    return Split(root, tuple(paths), tuple(labels), tuple(skipped))


def find_split(root: Path, split: str) -> Path | None:
    """The folder of a split, 'train' or 'test', or None; raises DatasetError if it is ambiguous."""
    found = split_names.find(split, _directories(root))
    if len(found) > 1:
        raise DatasetError(
            f"{root}: {', '.join(found)} could each be the {split} images; remove all but one"
        )
    return root / found[0] if found else None


def _find_splits(root: Path) -> tuple[Path, Path]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name one with --data DIR")
    train, test = find_split(root, "train"), find_split(root, "test")
    if train and test:
        return train, test
    if not (train or test) and find_classes(root):
        command = SPLIT_COMMAND.format(root=shlex.quote(str(root)))
        raise DatasetError(
            f"{root}: has class folders, but no train and test folders with them; to move every"
            f" fifth image of each class to test and the others to train: {command}"
        )
    content = ", ".join(sorted(entry.name for entry in os.scandir(root))[:8])
    raise DatasetError(
        f"{root}: needs the folders {split_names.ACCEPTED}; has {content or 'nothing'}"
    )


def _directories(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if _is(entry.is_dir))


def _is_image(entry: os.DirEntry) -> bool:
    extension = os.path.splitext(entry.name)[1].lower()
    return extension in EXTENSIONS and not entry.name.startswith(".") and _is(entry.is_file)


def _is(check: Callable[[], bool]) -> bool:
    """The result of DirEntry.is_dir or is_file, which raise for a link to itself."""
    try:
        return check()
    except OSError:
        return False
