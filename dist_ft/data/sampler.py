"""Which images a rank sees at a step, and which of its rows count: arithmetic only.

One order for all ranks, one slice of it for a step, one share of the slice for a rank. Shares of a
step have one shape on every rank; where the slice does not divide, a rank's last row is padding
with a mask of 0. So all ranks make the same number of steps, and no image counts twice.
"""

from __future__ import annotations

import math
from typing import Iterator, Tuple

import numpy as np

_ORDER, _IMAGE, _STEP = 0, 1, 2  # what a stream of random words is for

Share = Tuple[np.ndarray, np.ndarray]  # (n,) int64 image indices, (n,) float32 mask


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """(num_images,) int64: the order in which an epoch visits the images.

    Sorted by raw Philox words, whose stream is fixed for ever, unlike that of numpy's shuffles.
    """
    stream = np.random.Philox(key=[seed, _ORDER], counter=[0, 0, 0, epoch])
    return np.argsort(stream.random_raw(num_images), kind="stable")


def image_draws(seed: int, epoch: int, index: int, num: int) -> np.ndarray:
    """(num,) float64 in [0, 1): the random numbers of one image in one epoch, on any rank."""
    stream = np.random.Philox(key=[seed, _IMAGE], counter=[0, 0, index, epoch])
    return (stream.random_raw(num) >> 11) * 2.0**-53


def step_seed(seed: int, step: int, rank: int) -> int:
    """From 0 to 2**31 - 1: the seed of what a network draws in a step, such as dropout's masks."""
    stream = np.random.Philox(key=[seed, _STEP], counter=[0, 0, rank, step])
    return int(stream.random_raw()) >> 33


def rank_share(images: np.ndarray, rank: int, size: int) -> Share:
    """A rank's share of a step's images: every size-th one, ceil(len / size) rows on each rank.

    Padding repeats an image of the same step, so that BatchNorm sees nothing foreign.
    """
    num_images = len(images)
    rows = math.ceil(num_images / size)
    positions = np.arange(rows) * size + rank
    return images[positions % max(num_images, 1)], (positions < num_images).astype(np.float32)


def sequential_shares(
    num_images: int, rank_batch_size: int, rank: int, size: int
) -> Iterator[Share]:
    """A rank's batches of a data set that is visited once, in order.

    Every batch has `rank_batch_size` rows, whatever the number of ranks, so that an image's scores
    do not depend on it; padding has index -1, no image at all.
    """
    rows = math.ceil(num_images / size)
    for start in range(0, rows, rank_batch_size):
        positions = (start + np.arange(rank_batch_size)) * size + rank
        real = (positions < num_images) & (start + np.arange(rank_batch_size) < rows)
        yield np.where(real, positions, -1), real.astype(np.float32)
