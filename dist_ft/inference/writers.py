"""Writes rows of predictions, one per image, as CSV, JSON lines, a table or Parquet."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TextIO

from dist_ft import files
from dist_ft.errors import UserError
from dist_ft.text import as_json

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("table", "csv", "jsonl", "parquet")
MAX_PATH_CHARS = 60  # width of the paths in a table


class Row(NamedTuple):
    """The prediction for one image; `top` is empty if there is an error."""

    path: str
    top: tuple[tuple[str, float], ...]  # labels with their probabilities, the likeliest first
    error: str = ""
    features: np.ndarray | None = None  # (D,) float32, if they were asked for


Write = Callable[[Sequence[Row]], None]


def format_of(chosen: str | None, output: Path | None) -> str:
    """The format to write: the chosen one, or one that suits the output."""
    if chosen:
        return chosen
    if output is None:
        return "table" if sys.stdout.isatty() else "csv"
    extension = output.suffix[1:].lower()
    return extension if extension in FORMATS else "csv"


def check_output(kind: str, output: Path | None) -> None:
    """Raises UserError if `write` would fail at once."""
    if kind == "parquet":
        if output is None:
            raise UserError("--format parquet: needs a file, --output FILE")
        _pyarrow()
    files.check_output_file(output, "--output")


def write(
    parts: Iterable[list[Row]],
    kind: str,
    output: Path | None,
    top: int,
    paths: Sequence[str],
    classes: Sequence[str],
    tta: str = "none",
) -> int:
    """Writes rows to a file or to standard output; returns how many images were unreadable.

    kind: one of FORMATS; top: labels per image; paths, classes: of all rows; tta: test-time
    augmentation, which JSON lines contain. Raises UserError if `output` cannot be written, and
    leaves it as it was.
    """
    num_unreadable = 0
    with _open(kind, output, top, paths, classes, tta) as write_rows:
        for rows in parts:
            write_rows(rows)
            num_unreadable += sum(bool(row.error) for row in rows)
    return num_unreadable


@contextmanager
def _open(
    kind: str,
    output: Path | None,
    top: int,
    paths: Sequence[str],
    classes: Sequence[str],
    tta: str,
) -> Iterator[Write]:
    if output is None:
        if kind != "table" and isinstance(sys.stdout, io.TextIOWrapper):
            # A program that reads the rows needs the exact bytes of the names.
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield _text_writer(kind, sys.stdout, top, paths, classes, tta)
        return
    with files.output_file(output, "--output") as temporary:
        if kind == "parquet":
            with _parquet_writer(temporary, top) as write_rows:
                yield write_rows
        else:
            with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as f:
                yield _text_writer(kind, f, top, paths, classes, tta)


def _text_writer(
    kind: str, file: TextIO, top: int, paths: Sequence[str], classes: Sequence[str], tta: str
) -> Write:
    path_width = min(MAX_PATH_CHARS, max(map(len, paths), default=0))
    label_width = max(map(len, classes))
    lines: dict[str, Callable[[Row], str]] = {
        "csv": lambda row: csv_line(row, top),
        "jsonl": lambda row: json_line(row, tta),
        "table": lambda row: table_line(row, path_width, label_width),
    }
    if kind == "csv":
        file.write(",".join(_columns(top)) + "\n")
    return lambda rows: file.writelines(map(lines[kind], rows))


@contextmanager
def _parquet_writer(path: Path, top: int) -> Iterator[Write]:
    """The columns of CSV. A name's bytes that are not UTF-8 are replaced."""
    pyarrow, parquet = _pyarrow()
    types = {"probability": pyarrow.float64()}
    fields = [(name, types.get(name.split("_")[0], pyarrow.string())) for name in _columns(top)]
    schema = pyarrow.schema(fields)

    def write_rows(rows: Sequence[Row]) -> None:
        cells = ([_utf8(cell) for cell in _cells(row, top)] for row in rows)
        records = [dict(zip(schema.names, row_cells)) for row_cells in cells]
        writer.write_batch(pyarrow.RecordBatch.from_pylist(records, schema=schema))

    with files.library_path(path) as file, parquet.ParquetWriter(file, schema) as writer:
        yield write_rows


def _columns(top: int) -> list[str]:
    suffixes = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    pairs = [f"{name}{suffix}" for suffix in suffixes for name in ("label", "probability")]
    return ["path", *pairs, "error"]


def _cells(row: Row, top: int) -> list[Any]:
    """The values of `_columns`; None where there is none."""
    cells = [cell for pair in row.top for cell in pair]
    return [row.path, *cells, *[None] * (2 * top - len(cells)), row.error or None]


def csv_line(row: Row, top: int) -> str:
    cells = _cells(row, top)
    texts = [f"{cell:.6f}" if isinstance(cell, float) else cell or "" for cell in cells]
    # The csv module quotes a carriage return only if lines end with one.
    has_return = any("\r" in text for text in texts)
    line = io.StringIO(newline="")
    csv.writer(
        line, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    ).writerow(texts)
    return line.getvalue()


def json_line(row: Row, tta: str = "none") -> str:
    """{"path", "label", "probability", "top": [{"label", "probability"}, ...], "error"}.

    With test-time augmentation also "tta".
    """
    top = [{"label": label, "probability": p} for label, p in row.top]
    likeliest = top[0] if top else {"label": None, "probability": None}
    value = {"path": row.path, **likeliest, "top": top, "error": row.error or None}
    return as_json(value if tta == "none" else {**value, "tta": tta}) + "\n"


def table_line(row: Row, path_width: int, label_width: int) -> str:
    """Aligned columns for a terminal. Control characters are replaced by '?'."""
    labels = "  ".join(f"{label:{label_width}}  {p:6.1%}" for label, p in row.top)
    line = f"{row.path:{path_width}}  {labels or 'unreadable: ' + row.error}"
    return "".join(c if c.isprintable() else "?" for c in line) + "\n"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"--format parquet: needs pyarrow ({error}); pip install 'dist-ft[parquet]'"
        ) from error
    return pyarrow, parquet


def _utf8(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
