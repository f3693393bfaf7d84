"""Reads a data set from disk: class directories of images, or RecordIO archives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

from dist_ft.data import recordio
from dist_ft.data.dataset import Dataset, DatasetError, Split

# Of images; other files in a class directory are skipped.
EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp",
    ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".heic", ".heif", ".avif",
)  # fmt: skip


def scan(root: str) -> Dataset:
    """The data set in `root`.

    That is train/CLASS/* and test/CLASS/* (or val/CLASS/*), or the RecordIO archives train*.rec
    and test*.rec (or val*.rec). The classes are the directories in train that contain an image,
    sorted by name. Raises DatasetError if a folder is missing, if there are fewer than two classes,
    or if the splits have different classes.
    """
    if recordio.has_archives(Path(root)):
        return recordio.scan(Path(root))
    train_root, test_root = _find_splits(Path(root))
    classes = list_classes(train_root)
    if len(classes) < 2:
        content = f"only {classes[0]!r}" if classes else "no class directory with images"
        raise DatasetError(
            f"{train_root}: {content}; a classifier needs at least two, as train/CLASS/IMAGE.jpg"
        )
    test_classes = list_classes(test_root)
    missing = [
        f"{split_root} lacks {', '.join(sorted(lacking))}"
        for split_root, lacking in (
            (train_root, set(test_classes) - set(classes)),
            (test_root, set(classes) - set(test_classes)),
        )
        if lacking
    ]
    if missing:
        raise DatasetError(f"{'; '.join(missing)}: both must have images of the same classes")
    train, test = list_images(train_root, classes), list_images(test_root, classes)
    return Dataset(tuple(classes), train, test)


def list_classes(root: Path) -> list[str]:
    """The visible directories in `root` that contain an image, sorted by name."""
    with os.scandir(root) as entries:
        directories = sorted(entry.name for entry in entries if _is(entry.is_dir))
    visible = [name for name in directories if not name.startswith(".")]  # .ipynb_checkpoints
    return [name for name in visible if any(map(_is_image, os.scandir(root / name)))]


def list_images(root: Path, classes: list[str]) -> Split:
    """The images in these class directories; a label is the class's position in the list."""
    paths, labels, skipped = [], [], []
    for label, name in enumerate(classes):
        for entry in sorted(os.scandir(root / name), key=lambda entry: entry.name):
            path = f"{name}/{entry.name}"
            if _is_image(entry):
                paths.append(path)
                labels.append(label)
            else:
                skipped.append(path)
    return Split(root, tuple(paths), tuple(labels), tuple(skipped))


def _find_splits(root: Path) -> tuple[Path, Path]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name one with --data DIR")
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        folders = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())[:8])
        raise DatasetError(
            f"{root}: needs the folders train and test (or val); has {folders or 'nothing'}"
        )
    return train, test


def _is_image(entry: os.DirEntry) -> bool:
    extension = os.path.splitext(entry.name)[1].lower()
    return extension in EXTENSIONS and not entry.name.startswith(".") and _is(entry.is_file)


def _is(check: Callable[[], bool]) -> bool:
    """The result of DirEntry.is_dir or is_file, which raise for a link to itself."""
    try:
        return check()
    except OSError:
        return False
