"""Finds images of one split that are byte-identical to images of another."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import chain
from typing import Iterator, Sequence

from dist_ft.data.dataset import Dataset, Split

NUM_SHOWN = 5  # pairs in a message


def find_leaks(dataset: Dataset) -> list[tuple[str, str]]:
    """Pairs of paths of files in different splits with the same bytes.

    A file of val or test is paired with the first file that matches, in train if possible. Only
    files whose size occurs in several splits are read, so a few thousand images take milliseconds.
    Unreadable files are skipped; the loader reports them.
    """
    sizes = {name: list(split.sizes()) for name, split in dataset.splits.items()}
    num_splits = Counter(chain.from_iterable(map(set, sizes.values())))
    shared_sizes = {size for size, num in num_splits.items() if num > 1}
    first_path_of: dict[bytes, str] = {}  # of the splits before
    pairs = []
    for name, split in dataset.splits.items():
        found = list(_digests(split, sizes[name], shared_sizes))
        pairs += [(first_path_of[digest], p) for p, digest in found if digest in first_path_of]
        for path, digest in found:
            first_path_of.setdefault(digest, path)
    return pairs


def leak_message(pairs: Sequence[tuple[str, str]]) -> str:
    """The number of leaks, the first few of them, and the remedy."""
    number = f"{len(pairs):,} images are" if len(pairs) > 1 else "1 image is"
    lines = [
        f"{number} in two splits, which inflates the accuracy; remove them from"
        " one of the splits. python -m dist_ft.audit DATA lists all of them, and altered copies as"
        " well"
    ]
    lines += [f"  {path} is {first}" for first, path in pairs[:NUM_SHOWN]]
    if len(pairs) > NUM_SHOWN:
        lines.append(f"  and {len(pairs) - NUM_SHOWN} more")
    return "\n".join(lines)


def _digests(
    split: Split, sizes: Sequence[int], wanted_sizes: set[int]
) -> Iterator[tuple[str, bytes]]:
    for index, (path, size) in enumerate(zip(split.paths, sizes)):
        if size not in wanted_sizes:
            continue
        try:
            digest = hashlib.blake2b(split.read(index), digest_size=16).digest()
        except OSError:
            continue
        yield str(split.root / path), digest
