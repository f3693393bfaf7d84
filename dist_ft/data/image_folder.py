"""Reads a data set from disk: class directories of images, or RecordIO archives."""

from __future__ import annotations

import os
import shlex
from itertools import chain
from pathlib import Path
from typing import Callable

from dist_ft import split_names
from dist_ft.data import recordio
from dist_ft.data.dataset import Dataset, DatasetError, Split, check_no_val
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


def scan(root: str, divides_train: bool = False) -> Dataset:
    """The data set in `root`.

    That is train/CLASS/*, test/CLASS/* and optionally val/CLASS/*, or the RecordIO archives
    train*.rec, test*.rec and val*.rec; see split_names for other names. The classes are the
    directories in train that contain an image, sorted by name in Unicode's composed form.
    divides_train: validation images will be taken from train. Then there must be no val, there may
    be no test, and `root` may have the class directories itself. Raises DatasetError if a folder is
    missing, if there are fewer than two classes, or if the splits have different classes.
    """
    if recordio.has_archives(Path(root)):
        return recordio.scan(Path(root), divides_train)
    folders = _find_splits(Path(root), divides_train)
    found = {name: find_classes(folder) for name, folder in folders.items()}
    train = found["train"]
    if len(train) < 2:
        content = f"only {next(iter(train))!r}" if train else "no class directory with images"
        raise DatasetError(
            f"{folders['train']}: {content}; a classifier needs at least two, as"
            " train/CLASS/IMAGE.jpg"
        )
    all_classes = set(chain(*found.values()))
    lacking = {folder: sorted(all_classes - found[name].keys()) for name, folder in folders.items()}
    missing = [f"{folder} lacks {', '.join(names)}" for folder, names in lacking.items() if names]
    if missing:
        raise DatasetError(f"{'; '.join(missing)}: all must have images of the same classes")
    splits = {name: list_images(folder, found[name]) for name, folder in folders.items()}
    return Dataset.of_splits([*train], splits)


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
    """The folder of a split, as of 'val', or None; raises DatasetError if it is ambiguous."""
    return _only(root, split, split_names.find(split, _directories(root)))


def _only(root: Path, split: str, found: list[str]) -> Path | None:
    if len(found) > 1:
        raise DatasetError(
            f"{root}: {', '.join(found)} could each be the {split} images; remove all but one"
        )
    return root / found[0] if found else None


def _find_splits(root: Path, divides_train: bool) -> dict[str, Path]:
    """The folders of the splits that there are, by name; see `scan`."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name one with --data DIR")
    directories = _directories(root)
    if divides_train:
        check_no_val(root, directories)
    assigned = split_names.assign(directories)
    named = {name: _only(root, name, found) for name, found in assigned.items()}
    folders = {name: folder for name, folder in named.items() if folder}
    if "train" in folders and ("test" in folders or divides_train):
        return folders
    if not folders and find_classes(root):
        if divides_train:
            return {"train": root}
        command = SPLIT_COMMAND.format(root=shlex.quote(str(root)))
        raise DatasetError(
            f"{root}: has class folders, but no train and test folders with them. --val-share 0.2"
            " takes validation images from them, which select the best epoch; or, to move every"
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
