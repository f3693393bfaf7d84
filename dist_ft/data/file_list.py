"""Reads a data set from lists of files: any label for any path, below one root folder.

FILE.csv has rows of a path and a label, in quotes if they contain a comma, and optionally a first
row with the names of its columns, of which `path` and `label` are used. In any other file a line is
a path and a label, separated by a tab or by the last space. Files are in UTF-8.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from pathlib import Path
from typing import Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from dist_ft.data.dataset import Dataset, DatasetError, Split
from dist_ft.text import canonical, on_one_line

COLUMNS = ("path", "label")

Row = Tuple[int, List[str]]  # number of the line, path and label


class Entry(NamedTuple):
    where: str  # for messages: the list and the line
    path: str  # relative to the root
    label: str


def read(root: Path, lists: Mapping[str, Path]) -> Dataset:
    """The data set of the lists, by split: 'train', and 'val' or 'test' if there are any.

    A label is the name of a class or a number. The classes are the labels of train, sorted: as
    numbers if all of them are. A split need not have all of them. Images are sorted by class and
    path, so the order of the lines does not matter. Raises DatasetError with the list and the line.
    """
    entries = {split: list(_read_list(path, root)) for split, path in lists.items()}
    classes = _sorted_classes({entry.label for entry in entries["train"]})
    if len(classes) < 2:
        raise DatasetError(f"{lists['train']}: only the class {classes[0]!r}; needs at least two")
    splits = {name: _split_of(root, of_split, classes) for name, of_split in entries.items()}
    return Dataset.of_splits(classes, splits)


def read_split(root: Path, path: Path, classes: Sequence[str]) -> Split:
    """The images of one list, labeled by position in `classes`. Raises DatasetError."""
    return _split_of(root, list(_read_list(path, root)), classes)


def _split_of(root: Path, entries: Sequence[Entry], classes: Sequence[str]) -> Split:
    label_of = {name: label for label, name in enumerate(classes)}
    for entry in entries:
        if entry.label not in label_of:
            names = ", ".join(classes[:8])
            raise DatasetError(f"{entry.where}: label {entry.label!r}: is not a class; see {names}")
    rows = sorted((label_of[e.label], canonical(e.path), e.path) for e in entries)
    return Split(root, tuple(row[2] for row in rows), tuple(row[0] for row in rows), ())


def _sorted_classes(labels: set[str]) -> list[str]:
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def _read_list(path: Path, root: Path) -> Iterator[Entry]:
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name the root of the lists with --data DIR")
    line_of: dict[str, int] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        if len(row) != 2 or not all(row):
            raise DatasetError(f"{where}: needs a path and a label, has {on_one_line(str(row))}")
        name = _find(root, row[0], where)
        other = line_of.setdefault(canonical(name), line)
        if other != line:
            raise DatasetError(f"{where}: {row[0]} is also in line {other}; remove one of them")
        yield Entry(where, name, canonical(row[1]))
    if not line_of:
        raise DatasetError(f"{path}: is empty; needs a path and a label in each line")


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a list without the names of columns; rows of other than two cells are wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _text_rows(text)
    columns: list[int] = []
    for number, (line, row) in enumerate(rows):
        names = [cell.strip().lower() for cell in row]
        if number == 0 and {*COLUMNS} <= {*names}:
            columns = [names.index(name) for name in COLUMNS]
        elif columns:
            yield line, [row[column].strip() for column in columns if column < len(row)]
        else:
            yield line, [cell.strip() for cell in row]


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _text_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.split("\t") if "\t" in line else line.strip().rsplit(None, 1)


def _find(root: Path, name: str, where: str) -> str:
    """The path of an existing file below the root, in the Unicode form that it has there."""
    path = os.path.normpath(name)
    if os.path.isabs(path) or path.startswith(".."):
        raise DatasetError(f"{where}: {name}: must be a path below --data {root}")
    for form in (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path)):
        found = os.fsdecode(form.encode("utf-8"))
        if os.path.isfile(root / found):
            return found
    raise DatasetError(f"{where}: {name}: no such file in --data {root}")
