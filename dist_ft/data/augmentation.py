"""Random changes of a training image: its crop, and what is done to the crop.

Each operation takes its random numbers from fixed places, so enabling one does not change what the
others do. The order is that of torchvision's reference training and of timm: crop and flip, jitter,
TrivialAugment, erasing.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, NamedTuple

import cv2
import numpy as np

from dist_ft.data import transforms
from dist_ft.data.decoding import SourceImage
from dist_ft.data.image import BLANK
from dist_ft.data.pixel_operations import (
    adjust,
    auto_contrast,
    equalize,
    posterize,
    rotate,
    sharpen,
    solarize,
    warp,
)

# Places of the random numbers; those of the crop and the flips come first.
JITTER = slice(transforms.NUM_DRAWS + 1, transforms.NUM_DRAWS + 4)
ERASING = slice(JITTER.stop, JITTER.stop + transforms.NUM_DRAWS)
OPERATION = slice(ERASING.stop, ERASING.stop + 3)  # which one, its magnitude, its sign

# Random erasing as in Zhong et al. 2020, with the smaller largest area of torchvision and timm.
ERASED_AREA = (0.02, 1 / 3)  # share of the image's area
ERASED_MAX_RATIO = 1 / 0.3

# "Wide" TrivialAugment of Müller and Hutter 2021: what its operations do at the largest magnitude.
NUM_MAGNITUDES = 31
SHEAR = 0.99  # px per px
SHIFT = 32  # px
ANGLE = 135  # degrees
FACTOR = 0.99  # of brightness, color, contrast and sharpness: from 1 - FACTOR to 1 + FACTOR
BITS = 6  # removed from each value

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (pixels, all draws) -> other pixels


class Augmentation(NamedTuple):
    """How training images are changed; the defaults are those of the settings."""

    min_area: float = transforms.AREA[0]  # of a crop, as a share of the image's
    max_ratio: float = transforms.MAX_RATIO
    flip: str = "horizontal"  # or "none", "vertical", "both"
    jitter: float = 0.0
    trivial_augment: bool = False
    random_erasing: float = 0.0  # probability

    @property
    def num_draws(self) -> int:
        """The random numbers of an image, so that none are drawn in vain."""
        if self.trivial_augment:
            return OPERATION.stop
        if self.random_erasing:
            return ERASING.stop
        return JITTER.stop if self.jitter else transforms.NUM_DRAWS + 1


DEFAULT = Augmentation()


def augment(image: SourceImage, draws: np.ndarray, out: np.ndarray, a: Augmentation) -> None:
    """Fills `out`, (side, side, 3), with an augmented image.

    draws: (a.num_draws,) in [0, 1), the only source of randomness. Raises CorruptImage.
    """
    crop(image, draws, out, a)
    for change in changes(a).values():
        out[:] = change(out, draws)


def crop(image: SourceImage, draws: np.ndarray, out: np.ndarray, a: Augmentation) -> None:
    """The first part of `augment`: the random resized crop and the flips."""
    transforms.random_resized_crop(image, draws, out, (a.min_area, 1.0), a.max_ratio, a.flip)


def changes(a: Augmentation) -> dict[str, Change]:
    """The other parts of `augment`, by setting and in their order; they may modify the pixels."""
    enabled: dict[str, Change] = {}
    if a.jitter:
        enabled["jitter"] = partial(_jitter, strength=a.jitter)
    if a.trivial_augment:
        enabled["trivial_augment"] = _trivial_augment
    if a.random_erasing:
        enabled["random_erasing"] = partial(_erase, probability=a.random_erasing)
    return enabled


def _jitter(pixels: np.ndarray, draws: np.ndarray, strength: float) -> np.ndarray:
    """Factors from 1 - strength to 1 + strength, as torchvision's ColorJitter."""
    return adjust(pixels, *(1 + strength * (2 * draws[JITTER] - 1)))


def _erase(pixels: np.ndarray, draws: np.ndarray, probability: float) -> np.ndarray:
    """Erases a box, with the given probability."""
    whether, attempts = draws[ERASING][0], draws[ERASING][1:].reshape(-1, 4)
    if whether < probability:
        height, width = pixels.shape[:2]
        left, top, w, h = transforms.random_crop_box(
            height, width, attempts, ERASED_AREA, ERASED_MAX_RATIO
        )
        cv2.rectangle(pixels, (left, top, w, h), BLANK, cv2.FILLED)
    return pixels


def _trivial_augment(pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """One operation of random magnitude."""
    which, size, sign = draws[OPERATION]
    level = int(size * NUM_MAGNITUDES) / (NUM_MAGNITUDES - 1)
    name = tuple(OPERATIONS)[int(which * len(OPERATIONS))]
    return OPERATIONS[name](pixels, -level if sign < 0.5 else level)


# Those of torchvision's TrivialAugmentWide: (pixels, magnitude from -1 to 1) -> other pixels.
# Operations without a direction ignore the sign.
OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "identity": lambda pixels, level: pixels,
    "shear x": lambda pixels, level: warp(pixels, [[1, level * SHEAR, 0], [0, 1, 0]]),
    "shear y": lambda pixels, level: warp(pixels, [[1, 0, 0], [level * SHEAR, 1, 0]]),
    "shift x": lambda pixels, level: warp(pixels, [[1, 0, -int(level * SHIFT)], [0, 1, 0]]),
    "shift y": lambda pixels, level: warp(pixels, [[1, 0, 0], [0, 1, -int(level * SHIFT)]]),
    "rotate": lambda pixels, level: rotate(pixels, level * ANGLE),
    "brightness": lambda pixels, level: adjust(pixels, brightness=1 + level * FACTOR),
    "color": lambda pixels, level: adjust(pixels, saturation=1 + level * FACTOR),
    "contrast": lambda pixels, level: adjust(pixels, contrast=1 + level * FACTOR),
    "sharpness": lambda pixels, level: sharpen(pixels, 1 + level * FACTOR),
    "posterize": lambda pixels, level: posterize(pixels, 8 - round(abs(level) * BITS)),
    "solarize": lambda pixels, level: solarize(pixels, 255 * (1 - abs(level))),
    "auto contrast": lambda pixels, level: auto_contrast(pixels),
    "equalize": lambda pixels, level: equalize(pixels),
}
