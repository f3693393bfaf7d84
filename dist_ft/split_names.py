"""The names by which data sets call their training and their test split, in any case."""

from __future__ import annotations

from typing import Iterable

# The names of an earlier group win, as the images of test are used before those of val.
GROUPS = {
    "train": (("train", "training"),),
    "test": (("test", "testing"), ("val", "valid", "validation", "eval")),
}
ALL = tuple(name for groups in GROUPS.values() for group in groups for name in group)
ACCEPTED = "train (or training) and test (or testing, val, valid, validation, eval), in any case"


def find(split: str, names: Iterable[str]) -> list[str]:
    """Those of the names that stand for a split, 'train' or 'test': several are ambiguous."""
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
