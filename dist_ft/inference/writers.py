"""Rows of predictions, an image each, in the formats that people and programs read."""

from __future__ import annotations

import csv
from typing import Any, NamedTuple, Sequence, TextIO

from dist_ft.errors import UserError
from dist_ft.text import as_json

WIDEST = 60  # characters of a path in a table


class Row(NamedTuple):
    """What is said of one image; `top` is empty where there is an error."""

    path: str
    top: tuple[tuple[str, float], ...]  # labels with their probabilities, the likeliest first
    error: str = ""


class Csv:
    """path, label, probability, label_2, probability_2, ..., error."""

    def __init__(self, file: TextIO, top: int):
        self._top = top
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        self._plain.writerow(columns(top))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            cells = [cell for label, p in row.top for cell in (label, f"{p:.6f}")]
            cells += [""] * (2 * self._top - len(cells))
            cells = [row.path, *cells, row.error]
            # csv itself quotes a carriage return only where lines end with one.
            writer = self._quoted if any("\r" in cell for cell in cells) else self._plain
            writer.writerow(cells)


class JsonLines:
    """{"path", "label", "probability", "top": [{"label", "probability"}, ...], "error"} a line."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            label, probability = row.top[0] if row.top else (None, None)
            top = [{"label": name, "probability": p} for name, p in row.top]
            line = {"path": row.path, "label": label, "probability": probability, "top": top}
            self._file.write(as_json({**line, "error": row.error or None}) + "\n")


class Table:
    """For the eye; what a terminal would take for an order is not passed on to it."""

    def __init__(self, file: TextIO, paths: Sequence[str], classes: Sequence[str]):
        self._file = file
        self._path_width = min(WIDEST, max(map(len, paths), default=0))
        self._label_width = max(map(len, classes))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            said = "  ".join(f"{label:{self._label_width}}  {p:6.1%}" for label, p in row.top)
            line = f"{row.path:{self._path_width}}  {said or 'unreadable: ' + row.error}"
            self._file.write("".join(c if c.isprintable() else "?" for c in line) + "\n")


class Parquet:
    """The columns of Csv, as pyarrow writes them."""

    def __init__(self, path: str, top: int):
        pyarrow, parquet = _pyarrow()
        kinds = {"probability": pyarrow.float64()}
        self._columns = columns(top)
        fields = [(c, kinds.get(c.split("_")[0], pyarrow.string())) for c in self._columns]
        self._schema = pyarrow.schema(fields)
        self._batch = pyarrow.RecordBatch.from_pylist
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        records = []
        for row in rows:
            cells = [cell for label, p in row.top for cell in (_utf8(label), p)]
            cells += [None] * (len(self._columns) - 2 - len(cells))
            cells = [_utf8(row.path), *cells, _utf8(row.error) or None]
            records.append(dict(zip(self._columns, cells)))
        self._writer.write_batch(self._batch(records, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def columns(top: int) -> list[str]:
    endings = ["", *(f"_{place}" for place in range(2, top + 1))]
    return ["path", *(f"{part}{e}" for e in endings for part in ("label", "probability")), "error"]


def check(kind: str) -> None:
    """Raises UserError where a format cannot be written here."""
    if kind == "parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # nobody needs it for anything else
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"--format parquet: takes pyarrow ({error}): pip install 'pyarrow<25'"
        ) from error
    return pyarrow, parquet


def _utf8(text: str) -> str:
    """A name that is no UTF-8 with � for what is wrong in it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
