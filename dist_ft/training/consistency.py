"""What must hold on every rank for a run to go on; where it does not, all stop and say why."""

from __future__ import annotations

import zlib
from typing import Any, Dict

import mxnet as mx
import numpy as np

from dist_ft.data.dataset import Dataset
from dist_ft.data.leakage import find_leaks, leak_message
from dist_ft.data.loader import Loader
from dist_ft.errors import CollectiveError, UserError
from dist_ft.training import run_spec

Arrays = Dict[str, mx.nd.NDArray]


LEAKS_SOUGHT = 50_000  # training images; of more, looking would keep the first step waiting


def apart(folder: Dataset) -> None:
    """No test image is a training image too, to the byte. Raises UserError."""
    leaks = find_leaks(folder) if len(folder.train) <= LEAKS_SOUGHT else []
    if leaks:
        raise UserError(f"{leak_message(leaks)}\n--allow-leak trains on them", 2)


def started_alike(mine: run_spec.Facts, world: Any) -> None:
    """Settings, files, classes and versions are the same on all ranks."""
    names, everyones = zip(*world.gather((world.name, mine)))
    differences = run_spec.between_ranks(everyones, names)
    if differences:
        raise CollectiveError("the ranks were not started alike: " + "; ".join(differences))


def readable(num_bad: int, max_bad_share: float, loader: Loader, world: Any) -> None:
    """At most this share of the split's files is unreadable; num_bad: of all ranks."""
    split = loader.split
    if num_bad > max_bad_share * len(split):
        told = [words for bad in world.gather(dict(loader.unreadable)) for words in bad.values()]
        raise CollectiveError(
            f"{num_bad} of {len(split)} images in {split.root} cannot be read, which is more"
            f" than --max-bad-share {max_bad_share}: " + "; ".join(told[:5])
        )


def finite(arrays: Arrays, step: int) -> None:
    """No update has overflowed, which the losses would show one step later."""
    for name, array in arrays.items():
        if not np.isfinite(array.asnumpy()).all():
            raise CollectiveError(
                f"{name} is not finite after {step} steps, and is not saved: go on from the last"
                " checkpoint with a smaller --lr, or with --clip-norm"
            )


def held_alike(arrays: Arrays, step: int, world: Any) -> None:
    """Every rank holds rank 0's parameters, to the last bit.

    BatchNorm's running statistics are left out: each rank has its own until they are pooled.
    """
    digests = [
        (name, zlib.crc32(array.asnumpy().tobytes()))
        for name, array in arrays.items()
        if "running_" not in name
    ]
    (_, first), *others = world.gather((world.name, digests))
    for rank_name, theirs in others:
        for (name, expected), (_, found) in zip(first, theirs):
            if found != expected:
                raise CollectiveError(
                    f"after {step} steps {name} on {rank_name} differs from rank 0's: the ranks"
                    " have parted; start again from the last checkpoint, and check that machine"
                )
