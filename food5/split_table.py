"""split.csv: the split and SHA-256 of each image, to verify a folder that was built earlier.

File names may contain bytes that are not UTF-8; the table keeps those bytes as they are.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from split import NUM_SHOWN, SPLITS, Request

from dist_ft.errors import UserError
from dist_ft.files import sha256_of
from dist_ft.text import canonical

NAME = "split.csv"
COLUMNS = ("split", "class", "file", "sha256")
REMEDY = "rebuild it with --overwrite, or choose another --out"
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def write(root: Path) -> None:
    """Writes root/split.csv for the images in root/train and root/test."""
    rows = [(*path.split("/"), sha256_of(root / path)) for path in _images(root)]
    with open(root / NAME, "w", **ENCODING) as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def verify(root: Path, request: Request) -> None:
    """Raises UserError unless the images are those of split.csv, and those of the request."""
    rows = _read(root / NAME)
    missing, different = _differences(root, rows)
    problems = missing + different
    if problems:
        shown = ", ".join(problems[:NUM_SHOWN])
        more = f" and {len(problems) - NUM_SHOWN} more" if len(problems) > NUM_SHOWN else ""
        raise UserError(f"{root}: differs from {NAME}: {shown}{more}; {REMEDY}")

    counts = Counter((canonical(row["class"]), row["split"]) for row in rows)
    known = sorted({class_name for class_name, _ in counts})
    classes = list(map(canonical, request.classes)) or known
    if counts != {(c, s): request.counts[s] for c in classes for s in SPLITS}:
        sizes = " and ".join(sorted({f"{count} {split}" for (_, split), count in counts.items()}))
        raise UserError(
            f"{root}: has {sizes} images of each of {', '.join(known)}, which is not what was"
            f" requested; {REMEDY}"
        )


def is_part(root: Path) -> bool:
    """True if split.csv lists all images that exist. Raises UserError if it is damaged."""
    _, different = _differences(root, _read(root / NAME))
    return not different


def _differences(root: Path, rows: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    """The images that are missing, and those that were added or changed, in words."""
    digests = {
        canonical(f"{row['split']}/{row['class']}/{row['file']}"): row["sha256"] for row in rows
    }
    existing = {canonical(path): root / path for path in _images(root)}
    missing = [f"{path} is missing" for path in sorted(digests.keys() - existing.keys())]
    different = [f"{path} was added" for path in sorted(existing.keys() - digests.keys())]
    for path in sorted(digests.keys() & existing.keys()):
        # Reading a pipe would block.
        if not existing[path].is_file() or sha256_of(existing[path]) != digests[path]:
            different.append(f"{path} has changed")
    return missing, different


def _images(root: Path) -> list[str]:
    """SPLIT/CLASS/NAME of all entries, whatever they are."""
    paths = (path for split in SPLITS for path in (root / split).glob("*/*"))
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, **ENCODING) as file:
            rows = list(csv.DictReader(file))
    except csv.Error as error:
        raise UserError(f"{path}: is damaged ({error}); {REMEDY}") from error
    lacking = [name for name in COLUMNS if not rows or not all(row.get(name) for row in rows)]
    if lacking:
        raise UserError(f"{path}: is damaged (no {', '.join(lacking)}); {REMEDY}")
    return rows
