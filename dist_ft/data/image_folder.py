"""A data set on disk: class directories of images, or RecordIO archives of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

from dist_ft.data import recordio
from dist_ft.data.dataset import Dataset, DatasetError, Split

# What Pillow and libjpeg-turbo read; other files in a class directory are counted as skipped.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp"),
    *(".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
)


def scan(root: str) -> Dataset:
    """The data set below `root`: train/CLASS/* and test/CLASS/* (or val/CLASS/*), or the archives
    train*.rec and test*.rec (or val*.rec).

    Classes are the directories in train with an image in them, sorted by name. Raises FolderError
    for a missing folder, no images, fewer than two classes, and classes that one split lacks.
    """
    if recordio.has_archives(Path(root)):
        return recordio.scan(Path(root))
    train_root, test_root = _split_roots(Path(root))
    classes = list_classes(train_root)
    if len(classes) < 2:
        known = f"only {classes[0]!r}" if classes else "no class directory with images"
        raise DatasetError(
            f"{train_root}: {known}; a classifier needs at least two, as train/CLASS/IMAGE.jpg"
        )
    tested = list_classes(test_root)
    foreign, untested = sorted(set(tested) - set(classes)), sorted(set(classes) - set(tested))
    if foreign or untested:
        lacks = [f"{train_root} lacks {', '.join(foreign)}"] if foreign else []
        lacks += [f"{test_root} lacks {', '.join(untested)}"] if untested else []
        raise DatasetError(f"{'; '.join(lacks)}: both must have images of the same classes")
    return Dataset(
        tuple(classes), list_images(train_root, classes), list_images(test_root, classes)
    )


def _split_roots(root: Path) -> tuple[Path, Path]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name one with --data DIR")
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())[:8]) or "nothing"
        raise DatasetError(f"{root}: needs the folders train and test (or val); has {found}")
    return train, test


def list_classes(root: Path) -> list[str]:
    """The directories with an image in them, sorted by name; hidden ones are none."""
    directories = sorted(entry.name for entry in os.scandir(root) if _is(entry.is_dir))
    visible = [name for name in directories if not name.startswith(".")]  # .ipynb_checkpoints
    return [name for name in visible if any(map(_is_image, os.scandir(root / name)))]


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself, say
        return False


def _is_image(entry: os.DirEntry) -> bool:
    extension = os.path.splitext(entry.name)[1].lower()
    return extension in EXTENSIONS and not entry.name.startswith(".") and _is(entry.is_file)


def list_images(root: Path, classes: list[str]) -> Split:
    """The images of these class directories, labelled by their place in the list."""
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
