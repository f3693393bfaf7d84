"""Lists and reads unlabeled images, as named on a command line."""

from __future__ import annotations

import glob
import io
import os
import stat
from typing import Iterable, Iterator, Sequence, TextIO

import numpy as np

from dist_ft.data import decoding, transforms
from dist_ft.data.image import CorruptImage
from dist_ft.data.image_folder import EXTENSIONS
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError

MAX_FILE_BYTES = 2**29  # of an encoded image
PREFETCH_MB = 64.0  # of images decoded ahead of the network on each rank


def list_images(arguments: Sequence[str], stdin: TextIO) -> list[str]:
    """The images that the arguments name, in their order; those of a folder are sorted by name.

    '-' stands for the lines of `stdin`. A path that does not exist is kept, to be reported as
    unreadable. Raises UserError if a folder cannot be listed, or if there are no images.
    """
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="surrogateescape")  # a path may contain any bytes
    paths = list(_expand(arguments, stdin))
    if not paths:
        raise UserError(f"{' '.join(arguments)}: no images there")
    return paths


def _expand(arguments: Iterable[str], lines: Iterable[str] = ()) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            yield from _expand(line.rstrip("\r\n") for line in lines if line.strip())
        elif os.path.isdir(argument):
            yield from _images_below(argument)
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if "**" in argument:  # which also matches the contents of the folders
                matches = [path for path in matches if not os.path.isdir(path)]
            yield from _expand(matches) if matches else [argument]
        else:
            yield argument


def _images_below(root: str, parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Files with an image's extension, first those in the folder, then those in subfolders.

    Links are followed; hidden files are left out, as in training. parents: real paths of the
    folders above, to leave out a link to one of them.
    """
    real_root = os.path.realpath(root)
    if real_root in parents:
        return
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{root}: cannot be listed ({error.strerror})") from error
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not os.path.isdir(entry.path):
            yield entry.path
    for entry in visible:
        if os.path.isdir(entry.path):
            yield from _images_below(entry.path, (*parents, real_root))


class UnlabeledImages:
    """Reads images for a Loader, and keeps what is wrong with the unreadable ones, by index."""

    def __init__(self, paths: Sequence[str], spec: InputSpec):
        self.paths, self._spec = paths, spec
        self.errors: dict[int, str] = {}

    def fill(self, index: int, row: np.ndarray) -> None:
        """Reads an image into `row`, (side, side, 3) uint8. Raises CorruptImage."""
        try:
            pixels = decoding.decode(_read(self.paths[index]))
            row[:] = transforms.center_crop(pixels, *self._spec)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            self.errors[index] = getattr(error, "strerror", None) or str(error)
            raise CorruptImage(self.errors[index]) from error


def _read(path: str) -> bytes:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise CorruptImage("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise CorruptImage(f"{status.st_size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    with open(path, "rb") as file:
        return file.read()
