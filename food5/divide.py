"""Which image goes to which split, so that no picture is in two: arithmetic only."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Dict, List, Mapping, NamedTuple, Sequence

SPLITS = ("train", "test")

Lists = Dict[str, List[str]]  # the images of each split, as CLASS/NAME


class Class(NamedTuple):
    """A class's pictures by the list that they are on, in the order in which they are to be used.

    A picture is its images: more than one where copies of it have to be used too.
    """

    train: list[list[str]]
    test: list[list[str]]


def pictures(
    images: Sequence[str],
    lists: Lists,
    first_of: Mapping[str, str],
    num_needed: int,
    seed: int,
) -> Class:
    """One class's images, as CLASS/NAME, gathered to pictures.

    lists: what each split may use; where one of them lacks, all images are train's, shuffled.
    first_of: the first image that shows the same picture, of each image that is one of several.
    Of copies, as many are left out as num_needed images allow. Pictures that other classes show
    too are the last to be used.
    """
    name = images[0].split("/")[0]
    if lists.keys() == set(SPLITS):
        here = set(images)
        listed = {split: [i for i in lists[split] if i in here] for split in SPLITS}
    else:
        drawn = sorted(images)
        key = f"{seed} {name}".encode("utf-8", "surrogateescape")  # a name may be no text
        random.Random(key).shuffle(drawn)
        listed = {"train": drawn, "test": []}
    by_first: dict[str, list[str]] = defaultdict(list)
    for image in (*listed["test"], *listed["train"]):
        by_first[first_of.get(image, image)].append(image)
    spare = max(0, sum(map(len, by_first.values())) - num_needed)
    for copies in by_first.values():
        num_left_out = min(spare, len(copies) - 1)
        del copies[len(copies) - num_left_out :]
        spare -= num_left_out
    elsewhere = {first for image, first in first_of.items() if image.split("/")[0] != name}
    # sorted() keeps the order of equals.
    in_order = [by_first[first] for first in sorted(by_first, key=elsewhere.__contains__)]
    tested = set(listed["test"])
    return Class(
        train=[picture for picture in in_order if picture[0] not in tested],
        test=[picture for picture in in_order if picture[0] in tested],
    )


def divide(
    classes: Mapping[str, Class], first_of: Mapping[str, str], counts: Mapping[str, int]
) -> dict[str, str]:
    """The split of each image that is used: counts[split] images a class, fewer where it has no
    more, and no picture in both splits."""
    split_of: dict[str, str] = {}
    taken: dict[str, str] = {}  # the split of each picture, by its first image
    filled: Counter = Counter()
    # Test chooses first, of its own list, and at last of what training has left of the other.
    for split, source in (("test", "test"), ("train", "train"), ("test", "train")):
        for name, of_class in classes.items():
            for picture in getattr(of_class, source):
                first = first_of.get(picture[0], picture[0])
                fits = filled[split, name] + len(picture) <= counts[split]
                if fits and picture[0] not in split_of and taken.get(first, split) == split:
                    taken[first] = split
                    split_of.update(dict.fromkeys(picture, split))
                    filled[split, name] += len(picture)
    return split_of
