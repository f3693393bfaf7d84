"""Is this data set what it seems? `python -m dist_ft.audit DATA` looks at every image of it.

It finds files that cannot be read, pictures that are in train and in test, pictures with two
labels, copies, classes of very different size, and images that are tiny, long or plain. Copies are
found by their bytes and to the eye: encoded anew, resized, and mirrored too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from dist_ft import cli, files
from dist_ft.data import leakage
from dist_ft.data.image_folder import scan
from dist_ft.diagnostics import duplicates
from dist_ft.diagnostics.duplicates import Copy, Group, Image, Look
from dist_ft.errors import UserError
from dist_ft.text import as_json, on_one_line

OK, NOTE, FAIL = "ok", "note", "FAIL"
TINY_PX = 32  # the shorter side of an image that shows too little
LONG = 4.0  # one side over the other, from which on a square crop shows a fragment
UNBALANCED = 3.0  # training images of the largest class over those of the smallest
WORDS = {
    duplicates.BYTES: "the same bytes",
    duplicates.PIXELS: "the same pixels",
    duplicates.ALTERED: "altered",
    duplicates.MIRRORED: "mirrored",
}


class Pair(NamedTuple):
    """Two files that show one picture."""

    first: Image
    copy: Copy

    def __str__(self) -> str:
        word = WORDS[self.copy.how]
        exactly = "" if self.copy.similarity == 1 else f", {self.copy.similarity:.3f} alike"
        return f"{self.copy.image.path} is {self.first.path} ({word}{exactly})"


class Finding(NamedTuple):
    verdict: str
    name: str
    found: str
    examples: tuple[str, ...] = ()
    remedy: str = ""

    def shown(self, num_examples: int) -> str:
        """As lines of a report, with the first examples."""
        lines = [f"{self.verdict:4}  {self.name:10} {self.found}"]
        lines += [f"{'':17}{on_one_line(example)}" for example in self.examples[:num_examples]]
        if len(self.examples) > num_examples:
            lines.append(f"{'':17}and {len(self.examples) - num_examples} more")
        return "\n".join(lines + [f"{'':17}-> {self.remedy}"] * bool(self.remedy))


@dataclass(frozen=True)
class Findings:
    """What there is to say of a data set; paths are relative to it."""

    root: str
    num_images: dict[str, dict[str, int]]  # of each class in each split
    groups: tuple[Group, ...]  # of files that show one picture; see duplicates.groups
    unreadable: dict[str, str]  # what is wrong with each
    tiny: dict[str, str]  # width and height of each, as for
    long: dict[str, str]
    plain: dict[str, str]

    def pairs(self) -> list[Pair]:
        """Each copy with the first file of its picture, which is in train where any is."""
        return [Pair(group.first, copy) for group in self.groups for copy in group.copies]

    def leaks(self) -> list[Pair]:
        """Training images and the test images that show the same."""
        return [p for p in self.pairs() if p.first.split != p.copy.image.split]

    def conflicts(self) -> list[Pair]:
        """Images of one class that are in another one too."""
        return [p for p in self.pairs() if p.first.label != p.copy.image.label]

    @property
    def is_clean(self) -> bool:
        return not (self.unreadable or self.leaks() or self.conflicts())

    def as_json(self) -> dict:
        """All of it as numbers, words, lists and dictionaries."""
        return {
            "data": self.root,
            "is_clean": self.is_clean,
            "num_images": self.num_images,
            "unreadable": self.unreadable,
            "leaks": [[p.first.path, p.copy.image.path] for p in self.leaks()],
            "conflicts": [[p.first.path, p.copy.image.path] for p in self.conflicts()],
            "groups": [_as_json(group) for group in self.groups],
            "tiny": self.tiny,
            "long": self.long,
            "plain": self.plain,
        }


def _as_json(group: Group) -> dict:
    copies = [
        {"path": c.image.path, "how": c.how, "similarity": round(c.similarity, 4)}
        for c in group.copies
    ]
    return {"first": group.first.path, "copies": copies}


def report(findings: Findings) -> Iterator[Finding]:
    """What was found, kind by kind, the gravest first."""
    leaks, conflicts = findings.leaks(), findings.conflicts()
    yield _list("unreadable", FAIL, findings.unreadable, "mend or remove them")
    yield _pairs(
        *("leaks", FAIL, leaks, "of test show a picture of train"),
        "the test accuracy is too good by them: remove them from one of the splits",
    )
    yield _pairs(
        *("labels", FAIL, conflicts, "show a picture of another class"),
        "keep each in the class that it belongs to, and remove the other one",
    )
    grave = {*leaks, *conflicts}
    rest = [pair for pair in findings.pairs() if pair not in grave]
    yield _pairs(
        *("copies", NOTE, rest, "more show a picture of their own class and split"),
        "each counts as one more, in training or in the scores: remove them, or let them be",
    )
    yield _balance({name: counts["train"] for name, counts in findings.num_images.items()})
    remedy = f"less than {TINY_PX} px on a side show little: replace or remove them"
    yield _list("tiny", NOTE, findings.tiny, remedy)
    remedy = "training sees fragments of them: crop them to what the label names"
    yield _list("long", NOTE, findings.long, remedy)
    yield _list("plain", NOTE, findings.plain, "one colour teaches nothing: remove them")


def _pairs(name: str, verdict: str, pairs: list[Pair], what: str, remedy: str) -> Finding:
    if not pairs:
        return Finding(OK, name, "none")
    counts = Counter(pair.copy.how for pair in pairs)
    kinds = ", ".join(f"{counts[how]:,} {word}" for how, word in WORDS.items() if counts[how])
    found = f"{len(pairs):,} {what} ({kinds})"
    return Finding(verdict, name, found, tuple(map(str, pairs)), remedy)


def _list(name: str, verdict: str, items: dict[str, str], remedy: str) -> Finding:
    if not items:
        return Finding(OK, name, "none")
    examples = tuple(f"{path}: {what}" for path, what in items.items())
    return Finding(verdict, name, f"{len(items):,}", examples, remedy)


def _balance(counts: dict[str, int]) -> Finding:
    by_count = sorted(counts, key=lambda name: counts[name])
    least, most = by_count[0], by_count[-1]
    found = f"{counts[least]:,} ({least}) to {counts[most]:,} ({most}) training images a class"
    if counts[most] < UNBALANCED * counts[least]:
        return Finding(OK, "balance", found)
    remedy = "rare classes are learned last: find more of them, and look at each class's accuracy"
    return Finding(NOTE, "balance", found, remedy=remedy)


def audit(root: str, least: float = duplicates.LEAST) -> Findings:
    """Looks at all images of the data set below `root`, with a progress bar on a terminal.

    least: the similarity of pictures that count as one, up to 1; see perceptual_hash. Images that
    cannot be read are among the findings; raises FolderError where `root` is no data set.
    """
    folder = scan(root)
    images = [i._replace(path=os.path.relpath(i.path, root)) for i in duplicates.images(folder)]
    looks, unreadable = duplicates.look_at(images)
    num_images = {name: {"train": 0, "test": 0} for name in folder.classes}
    for image in images:
        num_images[image.label][image.split] += 1
    return Findings(
        root=root,
        num_images=num_images,
        groups=tuple(duplicates.groups(looks, least)),
        unreadable=unreadable,
        tiny=_sizes(s for s in looks if min(s.height, s.width) < TINY_PX),
        long=_sizes(s for s in looks if max(s.height, s.width) >= LONG * min(s.height, s.width)),
        plain=_sizes(s for s in looks if not s.sketch.any()),
    )


def _sizes(looks: Iterable[Look]) -> dict[str, str]:
    return {seen.image.path: f"{seen.width} x {seen.height} px" for seen in looks}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The exit status is 1 where an image cannot be read, or where train and test, or\n"
        "two classes, share a picture; 2 where DATA is no data set; else 0.",
    )
    flag = parser.add_argument
    flag("data", metavar="DATA", help="image folder, as of dist_ft.train")
    flag("--json", type=Path, metavar="FILE", help="write all findings there, too")
    cli.add_count(parser, "--show", leakage.NUM_SHOWN, "examples of each finding")
    alike = "pictures that are so much alike, from 0.5 to 1, count as one"
    cli.add_share(parser, "--alike", duplicates.LEAST, alike)
    args = parser.parse_args()
    if args.alike < 0.5:
        parser.error(f"--alike {args.alike:g}: strangers are that much alike: take 0.5 or more")
    with cli.standard_output():
        try:
            findings = _looked_at(args)
        except UserError as error:
            parser.exit(2, f"{error}\n")
    sys.exit(0 if findings.is_clean else 1)


def _looked_at(args: argparse.Namespace) -> Findings:
    start = time.monotonic()
    files.check_output_file(args.json, "--json")
    findings = audit(args.data, args.alike)
    num_images = sum(sum(counts.values()) for counts in findings.num_images.values())
    print(on_one_line(f"{args.data}: {num_images:,} images in {time.monotonic() - start:.0f} s"))
    for finding in report(findings):
        print(finding.shown(args.show))
    if args.json:
        with files.output_file(args.json, "--json") as beside:
            beside.write_text(as_json(findings.as_json(), indent=1), encoding="utf-8")
    return findings
