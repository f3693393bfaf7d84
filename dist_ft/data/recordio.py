"""RecordIO archives of encoded images, as MXNet's im2rec writes them.

The frame around a record is that of dmlc-core's recordio.h. Archives are read through a memory map,
which all threads and all ranks of a host share; MXNet's own reader would have to copy every image
to read its label. The optional classes.txt next to them has one class name per line.
"""

from __future__ import annotations

import mmap
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Iterable, Iterator, NamedTuple, Tuple

from dist_ft import split_names
from dist_ft.data.dataset import Dataset, DatasetError, Split, check_no_val
from dist_ft.files import atomic_file
from dist_ft.text import canonical

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
# Marks of the parts of a record, which is split where it contains the magic number.
WHOLE, FIRST, MIDDLE, LAST = range(4)
HEADER = struct.Struct("<IfQQ")  # number of labels after the header, label, two identifiers

Range = Tuple[int, int]  # begin and end, in bytes


class Record(NamedTuple):
    """The location of an image."""

    archive: int  # index into RecordSplit.archives
    parts: tuple[Range, ...]
    header_size: int  # bytes at the start of the first part


@dataclass(frozen=True)
class RecordSplit(Split):
    """The images of one split's archives, in their order. A path is ARCHIVE/NUMBER."""

    archives: tuple[Path, ...]
    maps: tuple[mmap.mmap, ...]
    records: tuple[Record, ...]

    PER_IMAGE: ClassVar[tuple[str, ...]] = (*Split.PER_IMAGE, "records")

    def read(self, index: int) -> bytes:
        record = self.records[index]
        archive = self.maps[record.archive]
        parts = [archive[begin:end] for begin, end in record.parts]
        return MAGIC_BYTES.join(parts)[record.header_size :]

    def sizes(self) -> Iterable[int]:
        for record in self.records:
            lengths = [end - begin for begin, end in record.parts]
            yield sum(lengths) + len(MAGIC_BYTES) * (len(lengths) - 1) - record.header_size

    def _files(self) -> Iterable[str]:
        return map(str, self.archives)


def has_archives(root: Path) -> bool:
    """True if `root` is a data set of RecordIO archives."""
    return bool(split_names.find("train", _archives(root)))


def scan(root: Path, divides_train: bool = False) -> Dataset:
    """The data set in the archives train*.rec, test*.rec and optionally val*.rec of `root`.

    See split_names for other names. divides_train: validation images will be taken from train, so
    there must be no val, and there may be no test. Raises DatasetError if an archive is damaged, or
    if its labels are not 0 to C - 1.
    """
    archives = _archives_of_splits(root, divides_train)
    splits = {name: _read_split(root, paths) for name, paths in archives.items()}
    classes = _class_names(root, 1 + max(splits["train"].labels))
    for split in splits.values():
        wrong = set(range(len(classes))) ^ set(split.labels)
        if wrong:
            names = ", ".join(path.name for path in split.archives)
            raise DatasetError(
                f"{root}: the labels of {names} are not 0 to {len(classes) - 1}, each at least"
                f" once: see {', '.join(map(str, sorted(wrong)[:8]))}"
            )
    if len(classes) < 2:
        raise DatasetError(f"{root}: one class only; a classifier needs at least two")
    return Dataset.of_splits(classes, splits)


def write_archive(prefix: Path, images: Iterable[tuple[int, bytes]]) -> None:
    """Writes PREFIX.rec and PREFIX.idx of (label, encoded image), atomically. Raises OSError."""
    rec, idx = (prefix.with_name(prefix.name + extension) for extension in (".rec", ".idx"))
    with ExitStack() as stack:
        archive = stack.enter_context(open(stack.enter_context(atomic_file(rec)), "wb"))
        index = stack.enter_context(open(stack.enter_context(atomic_file(idx)), "w"))
        for number, (label, data) in enumerate(images):
            index.write(f"{number}\t{archive.tell()}\n")
            archive.write(_frame(HEADER.pack(0, label, number, 0) + data))


def _frame(record: bytes) -> bytes:
    """A record with its frame.

    The record is split at every magic number at a multiple of four bytes, and that number is left
    out: so the magic number marks the start of a part wherever it occurs.
    """
    parts, begin = [], 0
    position = record.find(MAGIC_BYTES)
    while position >= 0:
        if position % 4:
            position = record.find(MAGIC_BYTES, position + 1)
            continue
        parts.append(record[begin:position])
        begin = position + len(MAGIC_BYTES)
        position = record.find(MAGIC_BYTES, begin)
    parts.append(record[begin:])
    marks = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
    framed = b"".join(
        struct.pack("<II", MAGIC, mark << 29 | len(part)) + part for mark, part in zip(marks, parts)
    )
    return framed + bytes(-len(framed) % 4)


def _class_names(root: Path, num_labels: int) -> tuple[str, ...]:
    file = root / "classes.txt"
    if not file.exists():
        return tuple(map(str, range(num_labels)))
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    # Not splitlines: a name may contain other separators, such as U+2028.
    classes = tuple(map(canonical, text.rstrip("\n").split("\n")))
    if len(classes) != len(set(classes)) or not all(classes):
        raise DatasetError(f"{file}: needs one class name per line, each once")
    return classes


def _archives_of_splits(root: Path, divides_train: bool) -> dict[str, tuple[Path, ...]]:
    """The archives of each split that there is; see `scan`."""
    by_name = _archives(root)
    if divides_train:
        check_no_val(root, by_name)
    assigned = split_names.assign(by_name)
    required = {"train"} if divides_train else {"train", "test"}
    has_required = all(assigned[split] for split in required)
    if not has_required or any(len(found) > 1 for found in assigned.values()):
        content = ", ".join(path.name for paths in by_name.values() for path in paths[:8])
        raise DatasetError(
            f"{root}: needs archives NAME*.rec with one NAME for each split, which is"
            f" {split_names.ACCEPTED}; has {content or 'none'}"
        )
    return {split: tuple(by_name[found[0]]) for split, found in assigned.items() if found}


def _read_split(root: Path, archives: tuple[Path, ...]) -> RecordSplit:
    maps: list[mmap.mmap] = []
    records: list[Record] = []
    paths: list[str] = []
    labels: list[int] = []
    for number, path in enumerate(archives):
        if not path.stat().st_size:
            raise DatasetError(f"{path}: the file is empty")
        with open(path, "rb") as file:
            archive = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        maps.append(archive)
        for parts in _find_records(archive, path):
            header_size, label = _read_header(archive, parts[0], path)
            records.append(Record(number, parts, header_size))
            paths.append(f"{path.name}/{len(paths)}")
            labels.append(label)
    if not records:
        raise DatasetError(f"{root}: no image in {', '.join(path.name for path in archives)}")
    return RecordSplit(root, tuple(paths), tuple(labels), (), archives, tuple(maps), tuple(records))


def _archives(root: Path) -> dict[str, list[Path]]:
    """The archives of `root`, sorted, by the name of a split that they start with."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*.rec")):
        by_name.setdefault(split_names.leading(path.name), []).append(path)
    return by_name


def _find_records(archive: mmap.mmap, path: Path) -> Iterator[tuple[Range, ...]]:
    """The parts of each record, without their frames."""
    position = 0
    parts: list[Range] = []
    while position + 8 <= len(archive):
        magic, mark_and_length = struct.unpack_from("<II", archive, position)
        mark, begin = mark_and_length >> 29, position + 8
        end = begin + (mark_and_length & (1 << 29) - 1)
        if magic != MAGIC or end > len(archive):
            break
        parts.append((begin, end))
        if mark in (WHOLE, LAST):
            yield tuple(parts)
            parts = []
        position = end + -end % 4
    if position != len(archive) or parts:
        raise DatasetError(f"{path}: damaged at byte {position}; create it again with im2rec")


def _read_header(archive: mmap.mmap, part: Range, path: Path) -> tuple[int, int]:
    """The size of a record's header in bytes, and its label."""
    begin, end = part
    if end - begin < HEADER.size:
        raise DatasetError(f"{path}: no image at byte {begin}; create it again with im2rec")
    num_labels, label, _, _ = HEADER.unpack_from(archive, begin)
    if num_labels == 1:
        (label,) = struct.unpack_from("<f", archive, begin + HEADER.size)
    if num_labels > 1 or label < 0 or label != int(label):
        raise DatasetError(f"{path}: at byte {begin}: needs one label, a non-negative integer")
    return HEADER.size + 4 * num_labels, int(label)
