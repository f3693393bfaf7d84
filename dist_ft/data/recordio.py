"""RecordIO archives, as MXNet's im2rec writes them: train*.rec and test*.rec of encoded images.

They are read through a memory map, which all threads and all ranks of a host share; MXNet's own
reader would copy every image to tell its label. Names of the classes stand in classes.txt.
"""

from __future__ import annotations

import mmap
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from dist_ft.data.dataset import Dataset, DatasetError, Split
from dist_ft.files import atomic_file

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)  # parts of a record that has the magic number in it
HEADER = struct.Struct("<IfQQ")  # number of further labels, label, two identities


class Record(NamedTuple):
    """Where an image lies: its parts in an archive, and how many bytes of the first are header."""

    archive: int
    parts: tuple[tuple[int, int], ...]  # begin and end
    header: int


@dataclass(frozen=True)
class RecordSplit(Split):
    """The images of the archives of one split, in their order; a path is ARCHIVE/NUMBER."""

    archives: tuple[Path, ...]
    maps: tuple[mmap.mmap, ...]
    records: tuple[Record, ...]

    def read(self, index: int) -> bytes:
        record = self.records[index]
        archive = self.maps[record.archive]
        parts = [archive[begin:end] for begin, end in record.parts]
        return struct.pack("<I", MAGIC).join(parts)[record.header :]

    def sizes(self) -> Iterable[int]:
        for record in self.records:
            lengths = [end - begin for begin, end in record.parts]
            yield sum(lengths) + 4 * (len(lengths) - 1) - record.header

    def _files(self) -> Iterable[str]:
        return map(str, self.archives)


def has_archives(root: Path) -> bool:
    return any(root.glob("train*.rec"))


def scan(root: Path) -> Dataset:
    """The data set of the archives in `root`. Raises FolderError where they are no such thing."""
    train = _split(root, "train")
    test = _split(root, "test" if any(root.glob("test*.rec")) else "val")
    classes = _classes(root, 1 + max(train.labels))
    for split, name in ((train, "train"), (test, "test")):
        missing = set(range(len(classes))) ^ set(split.labels)
        if missing:
            raise DatasetError(
                f"{root}: the labels of {name}*.rec are not 0 to {len(classes) - 1}, each at least"
                f" once: see {', '.join(map(str, sorted(missing)[:8]))}"
            )
    if len(classes) < 2:
        raise DatasetError(f"{root}: one class only; a classifier needs at least two")
    return Dataset(classes, train, test)


def _classes(root: Path, num_labels: int) -> tuple[str, ...]:
    names = root / "classes.txt"
    if not names.exists():
        return tuple(map(str, range(num_labels)))
    classes = tuple(names.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    if len(classes) != len(set(classes)) or not all(classes):
        raise DatasetError(f"{names}: needs one name a line, each once")
    return classes


def _split(root: Path, name: str) -> RecordSplit:
    archives = tuple(sorted(root.glob(f"{name}*.rec")))
    maps, records, paths, labels = [], [], [], []
    for number, archive in enumerate(archives):
        with open(archive, "rb") as file:
            if not archive.stat().st_size:
                raise DatasetError(f"{archive}: the file is empty")
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for parts in _walk(maps[-1], archive):
            header, label = _read_header(maps[-1], parts[0], archive)
            records.append(Record(number, parts, header))
            paths.append(f"{archive.name}/{len(paths)}")
            labels.append(label)
    if not records:
        raise DatasetError(f"{root}: needs the archives train*.rec and test*.rec (or val*.rec)")
    return RecordSplit(root, tuple(paths), tuple(labels), (), archives, tuple(maps), tuple(records))


def _walk(archive: mmap.mmap, path: Path) -> Iterator[tuple[tuple[int, int], ...]]:
    """The parts of each record: dmlc-core's recordio.h describes the frame around them."""
    position, parts = 0, []
    while position + 8 <= len(archive):
        magic, kind_length = struct.unpack_from("<II", archive, position)
        kind, begin = kind_length >> 29, position + 8
        end = begin + (kind_length & (1 << 29) - 1)
        if magic != MAGIC or end > len(archive):
            break
        parts.append((begin, end))
        if kind in (WHOLE, LAST):
            yield tuple(parts)
            parts = []
        position = end + -end % 4
    if position != len(archive) or parts:
        raise DatasetError(f"{path}: broken at byte {position}: make it again with im2rec")


def _read_header(archive: mmap.mmap, part: tuple[int, int], path: Path) -> tuple[int, int]:
    """How long a record's header is, and its label."""
    begin, end = part
    if end - begin < HEADER.size:
        raise DatasetError(f"{path}: no image record at byte {begin}: make it again with im2rec")
    num_labels, label, _, _ = HEADER.unpack_from(archive, begin)
    if num_labels == 1:
        (label,) = struct.unpack_from("<f", archive, begin + HEADER.size)
    if num_labels > 1 or label < 0 or label != int(label):
        raise DatasetError(f"{path}: at byte {begin}: needs one label, a whole number")
    return HEADER.size + 4 * num_labels, int(label)


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
    """A record as dmlc-core's recordio.h writes it.

    The record is split at each magic number that is aligned to four bytes, which is left out, so
    that a reader which has lost its place finds the next record by the magic number.
    """
    magic = struct.pack("<I", MAGIC)
    parts, begin = [], 0
    position = record.find(magic)
    while position >= 0:
        if position % 4:
            position = record.find(magic, position + 1)
            continue
        parts.append(record[begin:position])
        begin = position + 4
        position = record.find(magic, begin)
    parts.append(record[begin:])
    kinds = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
    framed = b"".join(
        struct.pack("<II", MAGIC, kind << 29 | len(part)) + part for kind, part in zip(kinds, parts)
    )
    return framed + b"\0" * (-len(framed) % 4)
