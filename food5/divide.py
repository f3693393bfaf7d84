"""Assigns images to splits so that no picture is in both: arithmetic only.

An image is a file, CLASS/NAME. A picture is what it shows: several images may be copies of one.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Dict, List, Mapping, NamedTuple, Sequence

SPLITS = ("train", "test")

Lists = Dict[str, List[str]]  # images that each split may use
Picture = List[str]  # its images: more than one if copies have to be used as well


class Candidates(NamedTuple):
    """Pictures of a class by the list that they are on, in the order of use."""

    train: list[Picture]
    test: list[Picture]


def candidates(
    images: Sequence[str],
    lists: Lists,
    first_of: Mapping[str, str],
    num_needed: int,
    seed: int,
) -> Candidates:
    """Groups the images of one class into pictures.

    lists: if one of the splits has none, all images are shuffled and belong to train.
    first_of: for each image that has copies, the first image of the same picture. As many copies
    are left out as `num_needed` images allow. Pictures that also occur in other classes come last.
    """
    class_name = images[0].split("/")[0]
    available = set(images)
    if all(split in lists for split in SPLITS):
        train, test = ([i for i in lists[split] if i in available] for split in SPLITS)
    else:
        train, test = _shuffled(images, f"{seed} {class_name}"), []

    by_first: dict[str, Picture] = defaultdict(list)
    for image in test + train:
        by_first[first_of.get(image, image)].append(image)
    num_spare = max(0, len(test) + len(train) - num_needed)
    for picture in by_first.values():
        num_left_out = min(num_spare, len(picture) - 1)
        del picture[len(picture) - num_left_out :]
        num_spare -= num_left_out

    in_other_class = {f for image, f in first_of.items() if image.split("/")[0] != class_name}
    firsts = sorted(by_first, key=lambda first: first in in_other_class)  # stable
    ordered = [by_first[first] for first in firsts]
    on_test_list = set(test)
    return Candidates(
        train=[picture for picture in ordered if picture[0] not in on_test_list],
        test=[picture for picture in ordered if picture[0] in on_test_list],
    )


def _shuffled(images: Sequence[str], key: str) -> list[str]:
    shuffled = sorted(images)
    # File names may contain bytes that are not UTF-8.
    random.Random(key.encode("utf-8", "surrogateescape")).shuffle(shuffled)
    return shuffled


def divide(
    classes: Mapping[str, Candidates], first_of: Mapping[str, str], counts: Mapping[str, int]
) -> dict[str, str]:
    """Returns the split of each image that is used.

    Each class gets counts[split] images, or fewer if it has no more. No picture is in both splits,
    also across classes.
    """
    split_of: dict[str, str] = {}
    split_of_picture: dict[str, str] = {}  # by its first image
    num_used: Counter = Counter()
    # Test takes from its own list first, and then what training has left of its list.
    for split, source in (("test", "test"), ("train", "train"), ("test", "train")):
        for class_name, of_class in classes.items():
            for picture in getattr(of_class, source):
                first = first_of.get(picture[0], picture[0])
                fits = num_used[split, class_name] + len(picture) <= counts[split]
                is_free = picture[0] not in split_of
                if fits and is_free and split_of_picture.get(first, split) == split:
                    split_of_picture[first] = split
                    split_of.update(dict.fromkeys(picture, split))
                    num_used[split, class_name] += len(picture)
    return split_of
