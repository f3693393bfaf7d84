"""Food-101 as it is offered: the images of some classes, and its lists, out of an archive."""

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
from typing import IO, Callable, Iterator, Sequence, Tuple

from divide import Lists
from tqdm import tqdm

from dist_ft.errors import UserError

# Wherever they lie: Kaggle's archives have other folders above them. No name begins with a dot.
IMAGE = re.compile(r"(?:^|/)images/([^/\\.][^/\\]*)/([^/\\.][^/\\]*\.jpe?g)$", re.IGNORECASE)
LIST = re.compile(r"(?:^|/)meta/(train|test)\.txt$")
PAGE = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"

# What is raised for half an archive, a damaged one, another kind of file, and an encrypted .zip.
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, RuntimeError),
)
# An OSError of these tells of the archive too: bz2's, and of a place before the file's beginning.
BROKEN_ERRNOS = (None, errno.EINVAL)

Member = Tuple[str, Callable[[], IO[bytes]]]


def members(source: Path) -> Iterator[Member]:
    """The files of a folder or an archive, by name, each to be opened before the next is asked for;
    a .tar is read once, from end to end. With a progress bar on a terminal."""
    quiet = not sys.stderr.isatty()
    if source.is_dir():
        root = source.resolve()
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):  # a pipe, say, would be waited for without end
                    yield os.path.relpath(path, root.parent), partial(open, path, "rb")
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for info in tqdm(archive.infolist(), desc="reading", unit="files", disable=quiet):
                yield info.filename, partial(archive.open, info)
    else:
        total = source.stat().st_size
        with open(source, "rb") as file, tqdm.wrapattr(
            file, "read", total=total, desc="reading", disable=quiet
        ) as told, tarfile.open(fileobj=told, mode="r|*") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, partial(archive.extractfile, member)


def unpack(source: Path, classes: Sequence[str], pool: Path) -> Lists:
    """Put the images of these classes (none named: all) to pool/CLASS/NAME; return the lists found.

    Nothing else is written, wherever the archive says that it belongs.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; Food-101 is offered on {PAGE}")
    lists, offered = {}, set()
    try:
        for name, opened in members(source):
            image, listed = IMAGE.search(name), LIST.search(name)
            if listed:
                with opened() as file:
                    lines = os.fsdecode(file.read()).split()  # as names of files are
                    lists[listed[1]] = [f"{line}.jpg" for line in lines]
            if not image:
                continue
            offered.add(image[1])
            target = pool / image[1] / image[2]
            if (not classes or image[1] in classes) and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as file, open(target, "wb") as copy:
                    shutil.copyfileobj(file, copy)
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno not in BROKEN_ERRNOS:
            raise  # the disk's, say
        raise UserError(
            f"{source}: cannot be read ({error}); it has to be Food-101's .tar.gz, its folder, or a"
            " .zip of it: is the download complete?"
        ) from error
    missing = sorted(set(classes) - offered)
    if missing:
        known = ", ".join(sorted(offered)[:8]) or "no images/CLASS/*.jpg at all"
        raise UserError(f"{source}: has no images of {', '.join(missing)}; it has {known}")
    return lists
