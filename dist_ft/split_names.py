"""The names by which data sets call their splits, in any case."""

from __future__ import annotations

from typing import Iterable

VAL = ("val", "valid", "validation", "eval")
# The names of an earlier group win: the images of val are used as test if there is no test.
GROUPS = {
    "train": (("train", "training"),),
    "val": (VAL,),
    "test": (("test", "testing"), VAL),
}
ALL = tuple(name for groups in GROUPS.values() for group in groups for name in group)
ACCEPTED = "train (or training) and test (or testing, val, valid, validation, eval), in any case"


def assign(names: Iterable[str]) -> dict[str, list[str]]:
    """Those of the names that stand for train, val and test; several for one are ambiguous."""
    names = set(names)
    found = {split: find(split, names) for split in GROUPS}
    if found["val"] == found["test"]:  # without test
        found["val"] = []
    return found


def find(split: str, names: Iterable[str]) -> list[str]:
    """Those of the names that stand for a split, as for 'val': several are ambiguous."""
    names = set(names)
    for group in GROUPS[split]:
        found = sorted(name for name in names if name.lower() in group)
        if found:
            return found
    return []


def leading(text: str) -> str:
    """The split's name at the start of a file's name, as it is written there, or ''."""
    length = max((len(name) for name in ALL if text.lower().startswith(name)), default=0)
    return text[:length]
