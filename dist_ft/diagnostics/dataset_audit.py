"""Audits the images of a data set, and reports problems as findings."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Iterator, NamedTuple

from dist_ft.data import duplicates, sources
from dist_ft.data.duplicates import Duplicate, Group, ImageFile, InspectedImage
from dist_ft.diagnostics.finding import FAIL, NOTE, OK, Finding
from dist_ft.recipe_settings import DataSettings

MIN_SIDE_PX = 32  # a smaller image shows too little
MAX_ASPECT_RATIO = 4.0  # a square crop of a longer image shows a fragment
MAX_IMBALANCE = 3.0  # training images of the largest class over those of the smallest
KINDS = {
    duplicates.BYTES: "the same bytes",
    duplicates.PIXELS: "the same pixels",
    duplicates.ALTERED: "altered",
    duplicates.MIRRORED: "mirrored",
}


class Pair(NamedTuple):
    """Two files that show the same picture."""

    first: ImageFile
    duplicate: Duplicate

    @property
    def paths(self) -> list[str]:
        return [self.first.path, self.duplicate.file.path]

    def as_text(self) -> str:
        _, kind, similarity = self.duplicate
        details = f", similarity {similarity:.3f}" if similarity < 1 else ""
        return f"{self.duplicate.file.path} is {self.first.path} ({KINDS[kind]}{details})"


@dataclass(frozen=True)
class DatasetAudit:
    """The results of an audit. Paths are relative to the data set."""

    root: str
    num_images: dict[str, dict[str, int]]  # by class and split
    groups: tuple[Group, ...]  # of files that show the same picture, see duplicates.find_groups
    unreadable: dict[str, str]  # path: reason
    tiny: dict[str, str]  # path: width and height; `elongated` and `plain` as well
    elongated: dict[str, str]
    plain: dict[str, str]

    @property
    def pairs(self) -> list[Pair]:
        """Each duplicate with the first file of its group, which is in train if any of them is."""
        return [Pair(g.first, copy) for g in self.groups for copy in g.duplicates]

    @property
    def leaks(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.first.split != pair.duplicate.file.split]

    @property
    def label_conflicts(self) -> list[Pair]:
        return [p for p in self.pairs if p.first.class_name != p.duplicate.file.class_name]

    @property
    def is_clean(self) -> bool:
        return not (self.unreadable or self.leaks or self.label_conflicts)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values; the keys are an interface to other programs."""
        return {
            "data": self.root,
            "is_clean": self.is_clean,
            "num_images": self.num_images,
            "unreadable": self.unreadable,
            "leaks": [pair.paths for pair in self.leaks],
            "conflicts": [pair.paths for pair in self.label_conflicts],
            "groups": [group.as_json() for group in self.groups],
            "tiny": self.tiny,
            "long": self.elongated,
            "plain": self.plain,
        }


def audit_dataset(
    settings: DataSettings, min_similarity: float = duplicates.MIN_SIMILARITY
) -> DatasetAudit:
    """Reads all images of a data set, with a progress bar on a terminal.

    min_similarity: from which pictures count as the same, up to 1; see perceptual_hash. Unreadable
    images are part of the result. Raises DatasetError if there is no data set.
    """
    dataset, root = sources.read(settings), settings.data
    files = [
        ImageFile(
            split_name,
            dataset.classes[label],
            os.path.relpath(split.root / path, root),
            partial(split.read, index),
        )
        for split_name, split in dataset.splits.items()
        for index, (path, label) in enumerate(zip(split.paths, split.labels))
    ]
    images, unreadable = duplicates.inspect(files)
    num_images = {name: dict.fromkeys(dataset.splits, 0) for name in dataset.classes}
    for file in files:
        num_images[file.class_name][file.split] += 1

    def sizes(is_problem: Callable[[InspectedImage], bool]) -> dict[str, str]:
        return {i.file.path: f"{i.width} x {i.height} px" for i in images if is_problem(i)}

    return DatasetAudit(
        root=root,
        num_images=num_images,
        groups=tuple(duplicates.find_groups(images, min_similarity)),
        unreadable=unreadable,
        tiny=sizes(lambda i: min(i.height, i.width) < MIN_SIDE_PX),
        elongated=sizes(
            lambda i: max(i.height, i.width) >= MAX_ASPECT_RATIO * min(i.height, i.width)
        ),
        plain=sizes(lambda i: not i.hash.any()),
    )


def findings(audit: DatasetAudit) -> Iterator[Finding]:
    """One finding for each kind of problem, the most serious first."""
    yield _files_finding(FAIL, "unreadable", audit.unreadable, "repair or remove them")
    what = "images show a picture of another split"
    remedy = "they inflate the accuracy: remove them from one of the splits"
    yield _pairs_finding(FAIL, "leaks", audit.leaks, what, remedy)
    what = "images show a picture of another class"
    remedy = "keep one of each pair, in the class that it belongs to"
    yield _pairs_finding(FAIL, "labels", audit.label_conflicts, what, remedy)
    serious = {*audit.leaks, *audit.label_conflicts}
    others = [pair for pair in audit.pairs if pair not in serious]
    what = "images show a picture of their own class and split"
    remedy = "each has more weight in training or in the scores: consider removing them"
    yield _pairs_finding(NOTE, "duplicates", others, what, remedy)
    yield _balance_finding({name: split["train"] for name, split in audit.num_images.items()})
    remedy = f"a side of less than {MIN_SIDE_PX} px shows little: replace or remove them"
    yield _files_finding(NOTE, "tiny", audit.tiny, remedy)
    remedy = "training sees fragments of them: crop them to the labeled object"
    yield _files_finding(NOTE, "elongated", audit.elongated, remedy)
    remedy = "there is nothing to learn from a single color: remove them"
    yield _files_finding(NOTE, "plain", audit.plain, remedy)


def _pairs_finding(severity: str, name: str, pairs: list[Pair], what: str, remedy: str) -> Finding:
    if not pairs:
        return Finding(OK, name, "none")
    counts = Counter(pair.duplicate.kind for pair in pairs)
    kinds = ", ".join(f"{counts[kind]:,} {text}" for kind, text in KINDS.items() if counts[kind])
    examples = tuple(pair.as_text() for pair in pairs)
    return Finding(severity, name, f"{len(pairs):,} {what} ({kinds})", remedy, examples)


def _files_finding(severity: str, name: str, files: dict[str, str], remedy: str) -> Finding:
    if not files:
        return Finding(OK, name, "none")
    examples = tuple(f"{path}: {detail}" for path, detail in files.items())
    return Finding(severity, name, f"{len(files):,}", remedy, examples)


def _balance_finding(counts: dict[str, int]) -> Finding:
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    low, high = counts[smallest], counts[largest]
    detail = f"{low:,} ({smallest}) to {high:,} ({largest}) training images per class"
    if high < MAX_IMBALANCE * low:
        return Finding(OK, "balance", detail)
    remedy = (
        "collect more images of the small classes, train with --balance or --class-weights"
        " balanced, and check the accuracy of each class"
    )
    return Finding(NOTE, "balance", detail, remedy)
