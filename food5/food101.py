"""Reads Food-101 as it is distributed: images of some classes and its lists, from an archive."""

from __future__ import annotations

import errno
import lzma
import os
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Callable, Dict, Iterator, List, Sequence, Tuple

from tqdm import tqdm

from dist_ft.errors import UserError

# The classes of food5, Food-101's first five.
DISHES = ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare"]

# Anywhere in the archive, since Kaggle's has other folders at its top. Hidden files are no images.
IMAGE = re.compile(r"(?:^|/)images/([^/\\.][^/\\]*)/([^/\\.][^/\\]*\.jpe?g)$", re.IGNORECASE)
LIST = re.compile(r"(?:^|/)meta/(train|test)\.txt$")
PAGE = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"

# Raised for truncated, damaged and encrypted archives, and for other kinds of files. So are
# OSErrors with these codes: bz2 sets none, and a seek before the start of a file EINVAL.
ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
ARCHIVE_ERRNOS = (None, errno.EINVAL)

Lists = Dict[str, List[str]]  # images, CLASS/NAME, that each split may use
Member = Tuple[str, Callable[[], IO[bytes]]]


def members(source: Path) -> Iterator[Member]:
    """Yields the name of each file of a folder or an archive, and a function that opens it.

    A file must be opened before the next one is requested: a .tar is read once, from start to end.
    """
    quiet = not sys.stderr.isatty()
    if source.is_dir():
        root = source.resolve()
        for folder, _, names in os.walk(root):
            for path in (os.path.join(folder, name) for name in names):
                if os.path.isfile(path):  # opening a pipe would block
                    yield os.path.relpath(path, root.parent), partial(open, path, "rb")
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for info in tqdm(archive.infolist(), desc="reading", unit="files", disable=quiet):
                yield info.filename, partial(archive.open, info)
    else:
        size = source.stat().st_size
        with open(source, "rb") as file, tqdm.wrapattr(
            file, "read", total=size, desc="reading", disable=quiet
        ) as with_progress, tarfile.open(fileobj=with_progress, mode="r|*") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, partial(archive.extractfile, member)


def unpack(source: Path, classes: Sequence[str], target: Path) -> Lists:
    """Copies the images of these classes (none: all) to target/CLASS/NAME; returns the lists.

    Nothing is written elsewhere, whatever paths the archive contains. Raises UserError for archives
    that cannot be read and classes that are missing, OSError if the disk is full.
    """
    if not source.exists():
        raise UserError(
            f"{source}: no such file or folder; pass --download, or download Food-101 from {PAGE}"
        )
    lists: Lists = {}
    found: set[str] = set()
    try:
        for name, open_member in members(source):
            listed, image = LIST.search(name), IMAGE.search(name)
            if listed:
                with open_member() as file:
                    lists[listed[1]] = [f"{line}.jpg" for line in os.fsdecode(file.read()).split()]
            elif image:
                found.add(image[1])
                path = target / image[1] / image[2]
                if (not classes or image[1] in classes) and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open_member() as file, open(path, "wb") as copy:
                        shutil.copyfileobj(file, copy)
    except (*ARCHIVE_ERRORS, EOFError, ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in ARCHIVE_ERRNOS:
            raise
        raise UserError(
            f"{source}: cannot be read ({error}); pass the .tar.gz of Food-101, a .zip of it, or"
            " its folder, and check that the download is complete"
        ) from error
    check_classes(source, classes, sorted(found))
    return lists


def check_classes(source: Path | str, classes: Sequence[str], known: Sequence[str]) -> None:
    """Raises UserError if one of the classes does not exist."""
    missing = sorted(set(classes) - set(known))
    if missing:
        shown = ", ".join(known[:8]) or "no images/CLASS/*.jpg at all"
        raise UserError(f"{source}: has no images of {', '.join(missing)}; it has {shown}")
