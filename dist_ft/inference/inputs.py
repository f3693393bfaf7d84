"""Images without labels, as a command line names them, and what is wrong with the unreadable."""

from __future__ import annotations

import glob
import os
import stat
from typing import Iterable, Iterator, Sequence

import numpy as np

from dist_ft.data import decoding, transforms
from dist_ft.data.decoding import CorruptImage
from dist_ft.data.image_folder import EXTENSIONS
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError

MAX_BYTES = 2**29  # of an encoded image


def listed(words: Iterable[str], lines: Iterable[str]) -> list[str]:
    """The images that a command line names, in its order; a folder's are sorted by name.

    lines: what '-' stands for. A name of nothing that exists stays, to be told of as unreadable.
    Raises UserError for a folder that cannot be listed.
    """
    found: list[str] = []
    for word in words:
        if word == "-":
            found += listed((line.rstrip("\r\n") for line in lines if line.strip()), ())
        elif os.path.isdir(word):
            found += _below(word)
        elif not os.path.lexists(word) and glob.has_magic(word):
            named = sorted(glob.glob(word, recursive=True))
            if "**" in word:  # it has named what is in the folders, too
                named = [path for path in named if not os.path.isdir(path)]
            found += listed(named, ()) or [word]
        else:
            found.append(word)
    return found


def _below(root: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Files in a folder that are images by their name, and in those below it, also through links;
    hidden ones are left out, as by train.

    above: what the folders around it really are: a link to one of them would have no end.
    """
    own = os.path.realpath(root)
    if own in above:
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
            yield from _below(entry.path, (*above, own))


class Pictures:
    """The images to be labelled, and what is wrong with those that cannot be read."""

    def __init__(self, paths: Sequence[str], views: InputSpec):
        self.paths, self._views = paths, views
        self.errors: dict[int, str] = {}

    def fill(self, index: int, row: np.ndarray) -> None:
        """As dist_ft.data.loader.Loader has it. Raises CorruptImage."""
        try:
            pixels = decoding.decode(_read(self.paths[index]))
            row[:] = transforms.center_crop(pixels, *self._views)
        except (OSError, ValueError) as error:  # a name with a null in it is a ValueError
            self.errors[index] = getattr(error, "strerror", None) or str(error)
            raise CorruptImage(self.errors[index]) from error


def _read(path: str) -> bytes:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, a device never end
        raise CorruptImage("not a regular file")
    if about.st_size > MAX_BYTES:
        raise CorruptImage(f"{about.st_size:,} bytes, more than the {MAX_BYTES:,} that are read")
    with open(path, "rb") as file:
        return file.read()
