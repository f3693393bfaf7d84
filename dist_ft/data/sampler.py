"""The order of an epoch, and each rank's share of a step. Pure arithmetic.

All ranks use one order; a step is a slice of it, and each rank takes its share of the slice. All
shares of a step have the same shape. Where the slice is not divisible by the number of ranks, the
last row of some shares is padding with a mask of 0. So all ranks make the same number of steps, and
no image is counted twice.

An order consists of samples: sample % num_images is an image, and sample // num_images says how
often it came earlier in the epoch, which is always 0 unless the classes are balanced.
"""

from __future__ import annotations

import math
from typing import Iterator, Sequence, Tuple

import numpy as np

# Purposes of random streams: part of the Philox key, so that streams never overlap.
_ORDER, _IMAGE, _STEP, _CLASS, _PAIR = 0, 1, 2, 3, 4

Share = Tuple[np.ndarray, np.ndarray]  # (n,) int64 samples, (n,) float32 mask


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """(num_images,) int64: the order in which an epoch visits the images.

    It is the argsort of raw Philox words, which numpy guarantees never to change, unlike those of
    its shuffle functions.
    """
    stream = np.random.Philox(key=[seed, _ORDER], counter=[0, 0, 0, epoch])
    return np.argsort(stream.random_raw(num_images), kind="stable")


def balanced_order(seed: int, epoch: int, labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) int64: an order of n samples of n images, with every class equally often to within one.

    The images of a class are drawn in turn, one permutation after the other. So none is drawn again
    before all of its class were, not even across epochs.
    """
    labels = np.asarray(labels)
    num_images, sizes = len(labels), np.bincount(labels)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    members = [images for images in members if len(images)]
    drawn = []
    for number, images in enumerate(members):  # draw p of all epochs is of class p % len(members)
        first, end = (
            (total + len(members) - 1 - number) // len(members)
            for total in (epoch * num_images, (epoch + 1) * num_images)
        )
        drawn.append(images[_in_turn(seed, number, len(images), first, end)])
    images = np.concatenate(drawn)
    samples = images + num_images * _repetitions(images)
    return samples[epoch_order(seed, epoch, num_images)]


def _in_turn(seed: int, class_number: int, size: int, first: int, end: int) -> np.ndarray:
    """(end - first,) int64: the draws `first`... from a class of `size` images."""
    first_permutation, end_permutation = first // size, -(-end // size)
    # The words of the permutations follow each other in one stream, which yields 4 per count.
    start = first_permutation * size
    stream = np.random.Philox(key=[seed, _CLASS], counter=[start // 4, 0, class_number, 0])
    words = stream.random_raw(start % 4 + (end_permutation - first_permutation) * size)
    permutations = words[start % 4 :].reshape(-1, size).argsort(axis=1, kind="stable")
    return permutations.ravel()[first - start : end - start]


def _repetitions(images: np.ndarray) -> np.ndarray:
    """(n,) int64: how often each image occurs before in the array."""
    by_image = np.argsort(images, kind="stable")
    in_order = images[by_image]
    repetitions = np.empty_like(images)
    repetitions[by_image] = np.arange(len(images)) - np.searchsorted(in_order, in_order)
    return repetitions


def image_draws(seed: int, epoch: int, index: int, num: int, repetition: int = 0) -> np.ndarray:
    """(num,) float64 in [0, 1): the random numbers that augment an image in an epoch.

    repetition: how often the image came earlier in the epoch.
    """
    return _uniform(
        np.random.Philox(key=[seed, _IMAGE], counter=[0, repetition, index, epoch]), num
    )


def pair_draws(seed: int, epoch: int, index: int, num: int, repetition: int = 0) -> np.ndarray:
    """Like image_draws, the random numbers that mix a pair of images; index, repetition: of its
    first image, which together with the epoch determine the step."""
    return _uniform(np.random.Philox(key=[seed, _PAIR], counter=[0, repetition, index, epoch]), num)


def _uniform(stream: np.random.Philox, num: int) -> np.ndarray:
    return (stream.random_raw(num) >> 11) * 2.0**-53


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed, 0 to 2**31 - 1, of the random numbers inside the network, such as dropout masks."""
    stream = np.random.Philox(key=[seed, _STEP], counter=[0, 0, rank, step])
    return int(stream.random_raw()) >> 33


def rank_share(samples: np.ndarray, rank: int, size: int, group: int = 1) -> Share:
    """A rank's share of a step's samples: every size-th group of so many consecutive ones.

    All ranks have the rows of as many groups; in groups of 1, ceil(len(samples) / size). Padding
    repeats an image of the same step, so that BatchNorm sees only images of the step.
    """
    num_samples = len(samples)
    row = np.arange(math.ceil(math.ceil(num_samples / group) / size) * group)
    positions = (row // group * size + rank) * group + row % group
    return samples[positions % max(num_samples, 1)], (positions < num_samples).astype(np.float32)


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
