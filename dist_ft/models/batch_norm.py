"""Freezes BatchNorm layers, and pools their running statistics over the ranks."""

from __future__ import annotations

from typing import Iterable, Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from dist_ft.distributed.world import World
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import (
    parameters_by_path,
    set_use_running_statistics,
    uses_running_statistics,
)

MEAN, VARIANCE = "running_mean", "running_var"  # the ends of the statistics' paths


def layers(net: mx.gluon.Block) -> list[nn.BatchNorm]:
    """The BatchNorm layers of a network."""
    return zoo.layers(net, nn.BatchNorm)


def freeze(blocks: Iterable[nn.BatchNorm]) -> None:
    """Makes layers normalize by their running statistics in training, too, and keep these."""
    for block in blocks:
        set_use_running_statistics(block)


def statistics(net: mx.gluon.Block) -> dict[str, mx.nd.NDArray]:
    """The running means and variances that training changes, by path."""
    changing = [block for block in layers(net) if not uses_running_statistics(block)]
    parameters = {p for block in changing for p in (block.running_mean, block.running_var)}
    return {path: p.data() for path, p in parameters_by_path(net).items() if p in parameters}


def pool_statistics(statistics: Mapping[str, mx.nd.NDArray], world: World) -> None:
    """Replaces every rank's running statistics by those of all ranks' batches together.

    statistics: means and variances in the same order, by path. The mean is the mean of the ranks'
    means. The variance is E[x^2] - mean^2, which includes the spread between ranks; a mean of the
    ranks' variances would lose it. All ranks must call this.
    """
    if world.size == 1 or not statistics:
        return
    parts = [
        [array for path, array in statistics.items() if path.endswith(end)]
        for end in (MEAN, VARIANCE)
    ]
    mean, variance = (
        np.concatenate([array.asnumpy() for array in part]).astype(np.float64) for part in parts
    )
    sums = world.sum(np.concatenate([mean, variance + mean**2]))
    mean, mean_square = np.split(sums / world.size, 2)
    ends = np.cumsum([len(array) for array in parts[0]])[:-1]
    for part, pooled in zip(parts, (mean, mean_square - mean**2)):
        for array, values in zip(part, np.split(pooled, ends)):
            array[:] = values
