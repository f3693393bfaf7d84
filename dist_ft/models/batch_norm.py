"""Freezes BatchNorm layers, and pools their running statistics over the ranks."""

from __future__ import annotations

from typing import Iterable

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from dist_ft.distributed.world import World
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import set_use_running_statistics, uses_running_statistics


def layers(net: mx.gluon.Block) -> list[nn.BatchNorm]:
    """The BatchNorm layers of a network."""
    return zoo.layers(net, nn.BatchNorm)


def freeze(blocks: Iterable[nn.BatchNorm]) -> None:
    """Makes layers normalize by their running statistics in training, too, and keep these."""
    for block in blocks:
        set_use_running_statistics(block)


def pool_statistics(net: mx.gluon.Block, world: World) -> None:
    """Replaces the running statistics of every rank by those of all ranks' batches together.

    The mean is the mean of the ranks' means. The variance is E[x^2] - mean^2, which includes the
    spread between ranks; a mean of the ranks' variances would lose it. All ranks must call this.
    """
    blocks = [block for block in layers(net) if not uses_running_statistics(block)]
    if world.size == 1 or not blocks:
        return
    parameters = [block.running_mean for block in blocks], [block.running_var for block in blocks]
    mean, variance = (
        np.concatenate([p.data().asnumpy() for p in part]).astype(np.float64) for part in parameters
    )
    sums = world.sum(np.concatenate([mean, variance + mean**2]))
    mean, mean_square = np.split(sums / world.size, 2)
    ends = np.cumsum([block.running_mean.shape[0] for block in blocks])[:-1]
    for part, pooled in zip(parameters, (mean, mean_square - mean**2)):
        for parameter, values in zip(part, np.split(pooled, ends)):
            parameter.set_data(mx.nd.array(values))
