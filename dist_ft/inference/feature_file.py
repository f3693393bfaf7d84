"""Writes the features of images to a .npy file, as many as there are in the end."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator

import numpy as np

from dist_ft import files
from dist_ft.inference.writers import Row

FLAG = "--features"
HEADER_BYTES = 128  # numpy's, which are a multiple of 64, for any number of rows and columns


@contextmanager
def copied(
    parts: Iterable[list[Row]], path: Path | None, num_features: int
) -> Iterator[Iterable[list[Row]]]:
    """Yields the same rows, whose features are written as the body reads them: (n, D) float32.

    Rows with an error have none. path: a file that is complete when the body succeeds, or None.
    Raises UserError if it cannot be written.
    """
    if path is None:
        yield parts
        return
    with files.output_file(path, FLAG) as temporary, open(temporary, "wb") as file:
        file.write(_header(0, num_features))
        yield _copied(parts, file)
        num_rows = (file.tell() - HEADER_BYTES) // (4 * num_features)
        file.seek(0)
        file.write(_header(num_rows, num_features))


def _copied(parts: Iterable[list[Row]], file: BinaryIO) -> Iterator[list[Row]]:
    for rows in parts:
        features = (row.features for row in rows if row.features is not None)
        file.writelines(array.astype("<f4").tobytes() for array in features)
        yield rows


def _header(num_rows: int, num_features: int) -> bytes:
    file = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, num_features)}
    np.lib.format.write_array_header_1_0(file, fields)
    assert len(file.getvalue()) == HEADER_BYTES
    return file.getvalue()
