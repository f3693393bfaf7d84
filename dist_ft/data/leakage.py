"""Finds test images that are byte-identical to training images."""

from __future__ import annotations

import hashlib
from typing import Iterator, Sequence

from dist_ft.data.dataset import Dataset, Split

NUM_SHOWN = 5  # pairs in a message


def find_leaks(dataset: Dataset) -> list[tuple[str, str]]:
    """Pairs (training path, test path) of files with the same bytes.

    A test file is paired with the first training file that matches. Only files whose size occurs in
    both splits are read, so a few thousand images take milliseconds. Unreadable files are skipped;
    the loader reports them.
    """
    train_sizes, test_sizes = list(dataset.train.sizes()), list(dataset.test.sizes())
    shared_sizes = set(train_sizes) & set(test_sizes)
    train_path_of: dict[bytes, str] = {}
    for path, digest in _digests(dataset.train, train_sizes, shared_sizes):
        train_path_of.setdefault(digest, path)
    return [
        (train_path_of[digest], path)
        for path, digest in _digests(dataset.test, test_sizes, shared_sizes)
        if digest in train_path_of
    ]


def leak_message(pairs: Sequence[tuple[str, str]]) -> str:
    """The number of leaks, the first few of them, and the remedy."""
    lines = [
        f"{len(pairs):,} of the test images are training images too, which inflates the test"
        " accuracy; remove them from one of the splits. python -m dist_ft.audit DATA lists all of"
        " them, and altered copies as well"
    ]
    lines += [f"  {test} is {train}" for train, test in pairs[:NUM_SHOWN]]
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
