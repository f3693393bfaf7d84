"""Divides the images of Food-101 so that no picture is in both splits.

An image is a file, CLASS/NAME. A picture is what it shows: several images may be copies of one.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Sequence

from food101 import Lists

from dist_ft.data import duplicates
from dist_ft.data.duplicates import Group
from dist_ft.errors import UserError
from dist_ft.text import on_one_line

SPLITS = ("train", "test")
NUM_SHOWN = 5  # examples in a message

Candidates = Dict[str, List[List[str]]]  # pictures by the list they are on, in the order of use


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
    by_class: dict[str, list[str]] = {path.name: [] for path in sorted(pool.glob("*"))}
    files = [
        duplicates.ImageFile("", name, f"{name}/{path.name}", path.read_bytes)
        for name in by_class
        for path in sorted((pool / name).iterdir())
    ]
    inspected, unreadable = duplicates.inspect(files)
    for image in inspected:
        by_class[image.file.class_name].append(image.file.path)
    groups = [] if request.allow_leak else duplicates.find_groups(inspected)
    first_of = {file.path: group.first.path for group in groups for file in group.files}
    split_of = divide(by_class, lists, first_of, request.counts, request.seed)
    _print_list("unreadable images, left out", [f"{p}: {why}" for p, why in unreadable.items()])
    _print_list("pictures with copies", [_outcome(group, split_of) for group in groups])
    _check_counts(split_of, list(by_class), request.counts, groups)
    return split_of


def divide(
    by_class: Mapping[str, Sequence[str]],
    lists: Lists,
    first_of: Mapping[str, str],
    counts: Mapping[str, int],
    seed: int,
) -> dict[str, str]:
    """Returns the split of each image that is used, from the images of each class.

    first_of: for each image that has copies, the first image of the same picture. Each class gets
    counts[split] images, or fewer if it has no more; no picture is in both splits, also across
    classes. If one of the splits has no list, the images are shuffled.
    """
    candidates = {
        name: _candidates(name, images, lists, first_of, sum(counts.values()), seed)
        for name, images in by_class.items()
    }
    split_of: dict[str, str] = {}
    split_of_picture: dict[str, str] = {}  # by its first image
    num_used: Counter = Counter()
    # Test takes from its own list first, and then what training has left of its list.
    for split, source in (("test", "test"), ("train", "train"), ("test", "train")):
        for name, of_class in candidates.items():
            for picture in of_class[source]:
                first = first_of.get(picture[0], picture[0])
                fits = num_used[split, name] + len(picture) <= counts[split]
                is_free = picture[0] not in split_of
                if fits and is_free and split_of_picture.get(first, split) == split:
                    split_of_picture[first] = split
                    split_of.update(dict.fromkeys(picture, split))
                    num_used[split, name] += len(picture)
    return split_of


def _candidates(
    class_name: str,
    images: Sequence[str],
    lists: Lists,
    first_of: Mapping[str, str],
    num_needed: int,
    seed: int,
) -> Candidates:
    """Groups the images of one class into pictures.

    As many copies are left out as `num_needed` images allow. Pictures that also occur in other
    classes come last.
    """
    if all(split in lists for split in SPLITS):
        available = set(images)
        train, test = ([i for i in lists[split] if i in available] for split in SPLITS)
    else:
        train, test = sorted(images), []
        # File names may contain bytes that are not UTF-8.
        key = f"{seed} {class_name}".encode("utf-8", "surrogateescape")
        random.Random(key).shuffle(train)
    by_first: dict[str, list[str]] = defaultdict(list)
    for image in test + train:
        by_first[first_of.get(image, image)].append(image)
    num_spare = max(0, len(test) + len(train) - num_needed)
    for picture in by_first.values():
        num_left_out = min(num_spare, len(picture) - 1)
        del picture[len(picture) - num_left_out :]
        num_spare -= num_left_out

    in_other_class = {f for image, f in first_of.items() if image.split("/")[0] != class_name}
    on_test_list = set(test)
    pictures: Candidates = {"train": [], "test": []}
    for first in sorted(by_first, key=lambda first: first in in_other_class):  # stable
        picture = by_first[first]
        pictures["test" if picture[0] in on_test_list else "train"].append(picture)
    return pictures


def _print_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"{len(lines)} {title}")
        for line in lines[:NUM_SHOWN]:
            print(f"  {on_one_line(line)}")
    if len(lines) > NUM_SHOWN:
        print(f"  and {len(lines) - NUM_SHOWN} more")


def _outcome(group: Group, split_of: dict[str, str]) -> str:
    """Where the images of one picture went."""
    return ", ".join(f"{f.path} ({split_of.get(f.path, 'left out')})" for f in group.files)


def _check_counts(
    split_of: dict[str, str], classes: Sequence[str], counts: dict[str, int], groups: list[Group]
) -> None:
    found = Counter((path.split("/")[0], split) for path, split in split_of.items())
    short = [(n, s) for n in classes for s in SPLITS if found[n, s] < counts[s]]
    if not short:
        return
    problem = "; ".join(f"{n} has {found[n, s]} of {counts[s]} images for {s}" for n, s in short)
    remedy = "request fewer with --train and --test"
    short_classes = {name for name, _ in short}
    shared = [g for g in groups if short_classes & {file.class_name for file in g.files}]
    if shared:
        examples = "; ".join(_outcome(group, split_of) for group in shared[:NUM_SHOWN])
        problem += f", since no picture may be in both splits: {examples}"
        remedy += ", or allow copies in both splits with --allow-leak"
    raise UserError(f"{problem}; {remedy}")
