"""The order of an epoch, and each rank's share of a step. Pure arithmetic.

All ranks use one order; a step is a slice of it, and each rank takes its share of the slice. All
shares of a step have the same shape. Where the slice is not divisible by the number of ranks, the
last row of some shares is padding with a mask of 0. So all ranks make the same number of steps, and
no image is counted twice.
"""

from __future__ import annotations

import math
from typing import Iterator, Tuple

import numpy as np

# Purposes of random streams: part of the Philox key, so that streams never overlap.
_ORDER, _IMAGE, _STEP = 0, 1, 2

Share = Tuple[np.ndarray, np.ndarray]  # (n,) int64 image indices, (n,) float32 mask


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """(num_images,) int64: the order in which an epoch visits the images.

    It is the argsort of raw Philox words, which numpy guarantees never to change, unlike those of
    its shuffle functions.
    """
    stream = np.random.Philox(key=[seed, _ORDER], counter=[0, 0, 0, epoch])
    return np.argsort(stream.random_raw(num_images), kind="stable")


def image_draws(seed: int, epoch: int, index: int, num: int) -> np.ndarray:
    """(num,) float64 in [0, 1): the random numbers that augment an image in an epoch."""
    stream = np.random.Philox(key=[seed, _IMAGE], counter=[0, 0, index, epoch])
    return (stream.random_raw(num) >> 11) * 2.0**-53


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed, 0 to 2**31 - 1, of the random numbers inside the network, such as dropout masks."""
    stream = np.random.Philox(key=[seed, _STEP], counter=[0, 0, rank, step])
    return int(stream.random_raw()) >> 33


def rank_share(images: np.ndarray, rank: int, size: int) -> Share:
    """A rank's share of a step's images: every size-th one, ceil(len(images) / size) rows.

    Padding repeats an image of the same step, so that BatchNorm sees only images of the step.
    """
    num_images = len(images)
    rows = math.ceil(num_images / size)
    positions = np.arange(rows) * size + rank
    return images[positions % max(num_images, 1)], (positions < num_images).astype(np.float32)


def sequential_shares(
    num_images: int, rank_batch_size: int, rank: int, size: int
) -> Iterator[Share]:
    """A rank's shares of a split that is visited once, in order.

    Every share has `rank_batch_size` rows, whatever the number of ranks, so that an image's logits
    do not depend on it. Padding has index -1.
    """
    rows = math.ceil(num_images / size)
    for start in range(0, rows, rank_batch_size):
        row_numbers = start + np.arange(rank_batch_size)
        positions = row_numbers * size + rank
        is_image = (positions < num_images) & (row_numbers < rows)
        yield np.where(is_image, positions, -1), is_image.astype(np.float32)
