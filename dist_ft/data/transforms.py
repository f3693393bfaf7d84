"""An image as the network sees it: augmented in training, its centre in a test."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from dist_ft.data.decoding import Box, SourceImage

AREA = (0.08, 1.0)  # random resized crop: share of the image, and
RATIO = (3 / 4, 4 / 3)  # width over height, as in Szegedy et al. 2014 and gluon's transform
NUM_DRAWS = 41  # random numbers an augmentation takes: 10 tries of 4, and a flip

cv2.setNumThreads(1)  # the loader's workers are the parallelism


class InputSpec(NamedTuple):
    """What of an image the network sees: lengths in px, as `center_crop` takes them."""

    side: int
    resize: int
    keep_ratio: bool


def random_resized_crop(image: SourceImage, draws: np.ndarray, out: np.ndarray) -> None:
    """Fills `out`, (side, side, 3): a random resized crop, mirrored half of the time.

    draws: (NUM_DRAWS,) in [0, 1), all the chance there is in it. Raises CorruptImage.
    """
    side = out.shape[0]
    box = random_crop_box(image.height, image.width, draws[:-1].reshape(-1, 4))
    _resize(image.crop(box, side), side, side, out)
    if draws[-1] < 0.5:
        cv2.flip(out, 1, dst=out)


def random_crop_box(height: int, width: int, draws: np.ndarray) -> Box:
    """The first of the tries, a row of `draws` each (area, ratio, left, top), that fits; where
    none does, the largest central box whose ratio is allowed."""
    for area, ratio, left, top in draws.tolist():  # numpy's scalars are slow
        area = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def center_crop(pixels: np.ndarray, side: int, resize: int, keep_ratio: bool) -> np.ndarray:
    """(side, side, 3): the centre of the image resized to `resize` px a side, or, with
    `keep_ratio`, to that many px on its shorter side."""
    height = width = resize
    if keep_ratio:
        shorter = min(pixels.shape[:2])
        # Without what the crop cannot reach: a line of 1 x 20,000 px would fill gigabytes.
        pixels = _centre(pixels, 4 * shorter, 4 * shorter)
        height, width = (round(length * resize / shorter) for length in pixels.shape[:2])
    return _centre(_resize(pixels, width, height), side, side)


def _centre(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of an image, at most so many px a side."""
    left, top = (pixels.shape[1] - width) // 2, (pixels.shape[0] - height) // 2
    left, top = max(0, left), max(0, top)
    return pixels[top : top + height, left : left + width]


def _resize(
    pixels: np.ndarray, width: int, height: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Bilinear between four neighbours, as MXNet's own image functions resize by default."""
    return cv2.resize(pixels, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
