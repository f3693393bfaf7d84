"""Writes rows of predictions, one per image, as CSV, JSON lines, a table or Parquet."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple, Protocol, Sequence, TextIO

from dist_ft import files
from dist_ft.errors import UserError
from dist_ft.text import as_json

FORMATS = ("table", "csv", "jsonl", "parquet")
MAX_PATH_CHARS = 60  # width of the paths in a table


class Row(NamedTuple):
    """The prediction for one image; `top` is empty if there is an error."""

    path: str
    top: tuple[tuple[str, float], ...]  # labels with their probabilities, the likeliest first
    error: str = ""


class Writer(Protocol):
    def write(self, rows: Sequence[Row]) -> None:
        """Appends rows."""


class CsvWriter:
    """Columns path, label, probability, label_2, probability_2, ..., error."""

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
            # The csv module quotes a carriage return only if lines end with one.
            writer = self._quoted if any("\r" in cell for cell in cells) else self._plain
            writer.writerow(cells)


class JsonLinesWriter:
    """{"path", "label", "probability", "top": [{"label", "probability"}, ...], "error"} a line."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            label, probability = row.top[0] if row.top else (None, None)
            line = {
                "path": row.path,
                "label": label,
                "probability": probability,
                "top": [{"label": name, "probability": p} for name, p in row.top],
                "error": row.error or None,
            }
            self._file.write(as_json(line) + "\n")


class TableWriter:
    """Aligned columns for a terminal. Control characters are replaced by '?'."""

    def __init__(self, file: TextIO, paths: Sequence[str], classes: Sequence[str]):
        self._file = file
        self._path_width = min(MAX_PATH_CHARS, max(map(len, paths), default=0))
        self._label_width = max(map(len, classes))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            labels = "  ".join(f"{label:{self._label_width}}  {p:6.1%}" for label, p in row.top)
            line = f"{row.path:{self._path_width}}  {labels or 'unreadable: ' + row.error}"
            self._file.write("".join(c if c.isprintable() else "?" for c in line) + "\n")


class ParquetWriter:
    """The columns of CsvWriter. A name's bytes that are not UTF-8 are replaced."""

    def __init__(self, path: Path, top: int):
        pyarrow, parquet = _pyarrow()
        self._columns = columns(top)
        types = {"probability": pyarrow.float64()}
        fields = [(c, types.get(c.split("_")[0], pyarrow.string())) for c in self._columns]
        self._schema = pyarrow.schema(fields)
        self._batch = pyarrow.RecordBatch.from_pylist
        self._writer = parquet.ParquetWriter(str(path), self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        records = []
        for row in rows:
            cells: list[Any] = [cell for label, p in row.top for cell in (_utf8(label), p)]
            cells += [None] * (len(self._columns) - 2 - len(cells))
            cells = [_utf8(row.path), *cells, _utf8(row.error) or None]
            records.append(dict(zip(self._columns, cells)))
        self._writer.write_batch(self._batch(records, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def columns(top: int) -> list[str]:
    suffixes = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    pairs = [f"{name}{suffix}" for suffix in suffixes for name in ("label", "probability")]
    return ["path", *pairs, "error"]


def format_of(chosen: str | None, output: Path | None) -> str:
    """The format to write: the chosen one, or one that suits the output."""
    if chosen:
        return chosen
    if output is None:
        return "table" if sys.stdout.isatty() else "csv"
    extension = output.suffix[1:].lower()
    return extension if extension in FORMATS else "csv"


def check_output(kind: str, output: Path | None) -> None:
    """Raises UserError if `open_writer` would fail at once."""
    if kind == "parquet":
        if output is None:
            raise UserError("--format parquet: needs a file, --output FILE")
        _pyarrow()
    files.check_output_file(output, "--output")


def write_all(writer: Writer, parts: Iterable[list[Row]]) -> int:
    """Returns how many of the images could not be read."""
    num_unreadable = 0
    for rows in parts:
        writer.write(rows)
        num_unreadable += sum(bool(row.error) for row in rows)
    return num_unreadable


@contextmanager
def open_writer(
    kind: str, output: Path | None, top: int, paths: Sequence[str], classes: Sequence[str]
) -> Iterator[Writer]:
    """Opens a writer to a file, or to standard output.

    kind: one of FORMATS; the file becomes `output` if the body succeeds. Raises UserError if it
    cannot be written.
    """
    if output is None:
        if kind != "table" and isinstance(sys.stdout, io.TextIOWrapper):
            # A program that reads the rows needs the exact bytes of the names.
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield _text_writer(kind, sys.stdout, top, paths, classes)
        return
    with files.output_file(output, "--output") as temporary:
        if kind == "parquet":
            writer = ParquetWriter(temporary, top)
            try:
                yield writer
            finally:
                writer.close()
        else:
            with temporary.open(
                "w", encoding="utf-8", errors="surrogateescape", newline=""
            ) as file:
                yield _text_writer(kind, file, top, paths, classes)


def _text_writer(
    kind: str, file: TextIO, top: int, paths: Sequence[str], classes: Sequence[str]
) -> Writer:
    if kind == "csv":
        return CsvWriter(file, top)
    if kind == "jsonl":
        return JsonLinesWriter(file)
    return TableWriter(file, paths, classes)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"--format parquet: needs pyarrow ({error}); pip install 'dist-ft[parquet]'"
        ) from error
    return pyarrow, parquet


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
