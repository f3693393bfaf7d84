"""Food-101 as parquet files on a web server, as on the Hugging Face hub: only the row groups that
hold images of the chosen classes are downloaded."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from food101 import DISHES, Lists, check_classes
from ranged_file import RangedFile, Ranges

from dist_ft.models.download import DownloadError

NUM_FILES = {"train": 8, "validation": 3}
SPLIT_OF = {"train": "train", "validation": "test"}  # validation has Food-101's test list
ROWS_AT_A_TIME = 100  # about 5 MB
# Raised for damaged files and other contents. So is OSError without a number, by pyarrow.
UNEXPECTED = (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError)
CLASS_NAME = re.compile(r"\w+")
IMAGE_NAME = re.compile(r"[^/\\.][^/\\]*\.jpe?g", re.IGNORECASE)


class Part(NamedTuple):
    """What is needed of one file."""

    remote: RangedFile
    split: str
    class_of: dict[int, str]  # of the labels that are needed
    row_groups: list[int]
    ranges: Ranges  # of the row groups


def open_parts(url: str, cache: Path, classes: Sequence[str]) -> list[Part]:
    """The parts of URL/data/*.parquet that hold images of these classes (none: all).

    cache: folder for what is downloaded. Downloads the footers, and the labels where a footer does
    not tell which there are. Raises DownloadError, and UserError if a class does not exist.
    """
    files = [
        (f"{split}-{n:05d}-of-{count:05d}.parquet", SPLIT_OF[split])
        for split, count in NUM_FILES.items()
        for n in range(count)
    ]
    return [_open_part(f"{url}/data/{n}", cache / n, split, classes) for n, split in files]


def _open_part(url: str, path: Path, split: str, classes: Sequence[str]) -> Part:
    remote = RangedFile(url, path)
    if not remote.supports_ranges:
        raise DownloadError(f"{url}: the server does not support range requests")
    with _reading(remote):
        parquet = pq.ParquetFile(remote)
        parquet.schema_arrow.field("image").type["bytes"]  # or a LookupError or TypeError
        class_of = _class_of(parquet, url, classes)
        row_groups = [g for g in range(parquet.num_row_groups) if _has_any(parquet, g, class_of)]
        ranges = [_byte_range(parquet.metadata.row_group(group)) for group in row_groups]
    return Part(remote, split, class_of, row_groups, ranges)


def unpack(parts: Sequence[Part], target: Path) -> Lists:
    """Writes the images to target/CLASS/NAME; returns the lists, in alphabetical order as
    Food-101's own. Raises DownloadError."""
    lists: Lists = {split: [] for split in SPLIT_OF.values()}
    for part in parts:
        for class_name in part.class_of.values():
            (target / class_name).mkdir(parents=True, exist_ok=True)
        with _reading(part.remote):
            for class_name, data, name in _images(part):
                path = _new_path(target / class_name, data, name)
                path.write_bytes(data)
                lists[part.split].append(f"{class_name}/{path.name}")
    return {split: sorted(images) for split, images in lists.items()}


@contextmanager
def _reading(remote: RangedFile) -> Iterator[None]:
    """Raises DownloadError if the file is damaged or has other columns."""
    try:
        yield
    except (*UNEXPECTED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DownloadError(f"{remote.url}: not a parquet file of Food-101 ({error})") from error


def _class_of(parquet: pq.ParquetFile, url: str, classes: Sequence[str]) -> dict[int, str]:
    """The names of the labels that are needed. They are alphabetical; without names in the file,
    those of food5 are known, which come first."""
    described = json.loads((parquet.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    if names:
        if not all(CLASS_NAME.fullmatch(name) for name in names):
            raise ValueError(f"class names {names}")
        check_classes(url, classes, names)
    elif not classes or set(classes) - set(DISHES):
        raise DownloadError(f"{url}: does not name its classes")
    return {n: name for n, name in enumerate(names or DISHES) if name in classes or not classes}


def _has_any(parquet: pq.ParquetFile, group: int, labels: dict[int, str]) -> bool:
    """True if a row group has one of these labels, by its statistics if these are conclusive."""
    columns = parquet.metadata.row_group(group)
    (label,) = (c for c in _columns(columns) if c.path_in_schema == "label")
    statistics = label.statistics
    if statistics is not None and statistics.has_min_max:
        if not any(statistics.min <= wanted <= statistics.max for wanted in labels):
            return False
        if statistics.min == statistics.max:
            return True
    column = parquet.read_row_group(group, ["label"], use_threads=False)["label"]
    return not labels.keys().isdisjoint(column.to_pylist())


def _columns(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(n) for n in range(group.num_columns)]


def _byte_range(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Where the row group is in its file. Whatever this misses is downloaded on reading."""
    offsets = [(c.dictionary_page_offset or c.data_page_offset, c) for c in _columns(group)]
    ends = [offset + column.total_compressed_size for offset, column in offsets]
    return min(offset for offset, _ in offsets), max(ends)


def _images(part: Part) -> Iterator[tuple[str, bytes, str]]:
    """Yields the class of each image, its bytes, and its name, "" if it has none."""
    part.remote.seek(0)
    parquet = pq.ParquetFile(part.remote, buffer_size=2**20)  # else it reads a row group at once
    batches = parquet.iter_batches(
        ROWS_AT_A_TIME, part.row_groups, ["label", "image"], use_threads=False
    )
    for batch in batches if part.row_groups else ():
        for row, label in enumerate(batch.column("label").to_pylist()):
            if label in part.class_of:
                image = batch.column("image")[row].as_py()
                name = (image.get("path") or "").rpartition("/")[2]
                yield part.class_of[label], image["bytes"], name


def _new_path(folder: Path, data: bytes, name: str) -> Path:
    """folder/NAME, or a name from the digest if there is no usable one or it is taken."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    names = [name] if IMAGE_NAME.fullmatch(name) else []
    names += [f"{digest}.jpg", *(f"{digest}-{n}.jpg" for n in range(2, 1000))]
    return next(folder / n for n in names if not (folder / n).exists())
