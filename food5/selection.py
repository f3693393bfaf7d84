"""Selects the images of each split so that no picture is in both, and reports what is left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple, Sequence

from divide import SPLITS, Lists, candidates, divide

from dist_ft.diagnostics import duplicates
from dist_ft.diagnostics.duplicates import Group
from dist_ft.errors import UserError
from dist_ft.text import on_one_line

NUM_SHOWN = 5  # examples in a message


class Request(NamedTuple):
    """What the user asks for."""

    classes: list[str]  # empty: all
    counts: dict[str, int]  # images per class, by split
    seed: int  # of the split, if there are no lists
    allow_leak: bool


def select(pool: Path, lists: Lists, request: Request) -> dict[str, str]:
    """Returns the split of each image to use, by CLASS/NAME, and prints what is left out.

    pool: folder of CLASS/NAME. Raises UserError if a class has too few images.
    """
    files = [
        duplicates.ImageFile(
            "", path.parent.name, f"{path.parent.name}/{path.name}", path.read_bytes
        )
        for path in sorted(pool.glob("*/*"))
    ]
    inspected, unreadable = duplicates.inspect(files)
    groups = [] if request.allow_leak else duplicates.find_groups(inspected)
    first_of = {file.path: group.first.path for group in groups for file in group.files}
    by_class: dict[str, list[str]] = {file.class_name: [] for file in files}
    for image in inspected:
        by_class[image.file.class_name].append(image.file.path)
    num_needed = sum(request.counts.values())
    classes = {
        name: candidates(images, lists, first_of, num_needed, request.seed)
        for name, images in by_class.items()
        if images
    }
    split_of = divide(classes, first_of, request.counts)
    _print_list("unreadable images, left out", [f"{p}: {why}" for p, why in unreadable.items()])
    _print_list("pictures with copies", [_outcome(group, split_of) for group in groups])
    _check_counts(split_of, list(by_class), request.counts, groups)
    return split_of


def _print_list(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    print(f"{len(lines)} {title}")
    for line in lines[:NUM_SHOWN]:
        print(f"  {on_one_line(line)}")
    if len(lines) > NUM_SHOWN:
        print(f"  and {len(lines) - NUM_SHOWN} more")


def _outcome(group: Group, split_of: dict[str, str]) -> str:
    """Where the images of one picture went."""
    return ", ".join(f"{f.path} ({split_of.get(f.path, 'left out')})" for f in group.files)


def _check_counts(
    split_of: dict[str, str],
    class_names: Sequence[str],
    counts: dict[str, int],
    groups: Sequence[Group],
) -> None:
    found = Counter((split, path.split("/")[0]) for path, split in split_of.items())
    short = [
        (name, split)
        for name in class_names
        for split in SPLITS
        if found[split, name] < counts[split]
    ]
    if not short:
        return
    problem = "; ".join(f"{n} has {found[s, n]} of {counts[s]} images for {s}" for n, s in short)
    remedy = "request fewer with --train and --test"
    short_classes = {name for name, _ in short}
    shared = [g for g in groups if short_classes & {file.class_name for file in g.files}]
    if shared:
        examples = "; ".join(_outcome(group, split_of) for group in shared[:NUM_SHOWN])
        problem += f", since no picture may be in both splits: {examples}"
        remedy += ", or allow copies in both splits with --allow-leak"
    raise UserError(f"{problem}; {remedy}")
