"""Checks of what must hold on all ranks; where it does not, all ranks stop with the reason."""

from __future__ import annotations

import zlib
from typing import Dict

import mxnet as mx
import numpy as np

from dist_ft.data.dataset import Dataset
from dist_ft.data.leakage import find_leaks, leak_message
from dist_ft.data.loader import Loader
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, UserError
from dist_ft.training.run_spec import RunSpec, rank_differences

Arrays = Dict[str, mx.nd.NDArray]

MAX_LEAK_CHECK_IMAGES = 50_000  # training images; with more, the check would delay the first step


def check_leaks(dataset: Dataset) -> None:
    """Raises UserError if an image of one split is byte-identical to one of another."""
    leaks = find_leaks(dataset) if len(dataset.train) <= MAX_LEAK_CHECK_IMAGES else []
    if leaks:
        raise UserError(f"{leak_message(leaks)}\n--allow-leak trains anyway", 2)


def check_same_spec(spec: RunSpec, world: World) -> None:
    """Raises CollectiveError if the ranks differ in settings, data or versions."""
    gathered = world.gather((world.name, spec))
    differences = rank_differences([s for _, s in gathered], [name for name, _ in gathered])
    if differences:
        raise CollectiveError("ranks have different settings or data: " + "; ".join(differences))


def check_unreadable(
    num_unreadable: int, max_bad_share: float, loader: Loader, world: World
) -> None:
    """Raises CollectiveError if too large a share of the loader's split is unreadable.

    num_unreadable: on all ranks together.
    """
    split = loader.split
    if num_unreadable > max_bad_share * len(split):
        reasons = list(merge(loader.unreadable, world).values())
        raise CollectiveError(
            f"{num_unreadable} of {len(split)} images in {split.root} cannot be read, more than"
            f" --max-bad-share {max_bad_share} allows; repair or remove them: "
            + "; ".join(reasons[:5])
        )


def merge(unreadable: dict[str, str], world: World) -> dict[str, str]:
    """The unreadable files of all ranks; all ranks call it."""
    return {
        path: why for of_rank in world.gather(dict(unreadable)) for path, why in of_rank.items()
    }


def check_finite(arrays: Arrays, step: int) -> None:
    """Raises CollectiveError if an update has overflowed: a loss shows it only a step later."""
    for name, array in arrays.items():
        if not np.isfinite(array.asnumpy()).all():
            raise CollectiveError(
                f"{name} is not finite after {step} steps, and is not saved; resume from the last"
                " checkpoint with a smaller --lr, or with --clip-norm"
            )


def check_identical(arrays: Arrays, step: int, world: World) -> None:
    """Raises CollectiveError if a rank's parameters differ from rank 0's in any bit.

    BatchNorm's running statistics are left out: each rank has its own until they are pooled.
    """
    checksums = {
        name: zlib.crc32(array.asnumpy().tobytes())
        for name, array in arrays.items()
        if "running_" not in name
    }
    (_, expected), *others = world.gather((world.name, checksums))
    for rank_name, actual in others:
        different = [name for name in expected if actual[name] != expected[name]]
        if different:
            raise CollectiveError(
                f"the ranks have diverged: after {step} steps {different[0]} on {rank_name} differs"
                " from rank 0; resume from the last checkpoint, and check that machine"
            )
