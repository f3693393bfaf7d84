"""Image transforms: the random resized crop of training and the center crop of testing."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from dist_ft.data.decoding import SourceImage
from dist_ft.data.orientation import UPRIGHT, Box

# Random resized crop, as in Szegedy et al. 2014 and gluon's transform.
AREA = (0.08, 1.0)  # the crop's share of the image's area
MAX_RATIO = 4 / 3  # of its width to its height, and of its height to its width
# Random numbers: 10 attempts of 4 each, and the horizontal flip. A vertical flip needs one more.
NUM_DRAWS = 41

cv2.setNumThreads(1)  # the loader's threads already use all cores


class InputSpec(NamedTuple):
    """How a test image becomes the network's input; see `center_crop`. Sizes in px."""

    side: int
    resize: int
    keep_ratio: bool


def random_resized_crop(
    image: SourceImage,
    draws: np.ndarray,
    out: np.ndarray,
    area: tuple[float, float] = AREA,
    max_ratio: float = MAX_RATIO,
    flip: str = "horizontal",
) -> None:
    """Fills `out`, (side, side, 3), with a random crop, flipped half of the time.

    draws: (NUM_DRAWS,) in [0, 1), or one more, the only source of randomness. area, max_ratio: see
    random_crop_box. flip: "none", "horizontal", "vertical" or "both". Raises CorruptImage.
    """
    side = out.shape[0]
    attempts = draws[: NUM_DRAWS - 1].reshape(-1, 4)
    box = random_crop_box(image.height, image.width, attempts, area, max_ratio)
    pixels, orientation = image.stored_crop(box, side)
    # The directions shrink by nearly the same factor, so the slower average is left to large crops.
    is_large = min(pixels.shape[:2]) > 2 * side
    interpolation = cv2.INTER_AREA if is_large else cv2.INTER_LINEAR
    cv2.resize(pixels, (side, side), dst=out, interpolation=interpolation)
    if flip in ("horizontal", "both") and draws[NUM_DRAWS - 1] < 0.5:
        orientation = orientation.mirrored()
    if flip in ("vertical", "both") and draws[NUM_DRAWS] < 0.5:
        orientation = orientation.flipped()
    if orientation != UPRIGHT:  # turning the resized crop copies fewer pixels
        out[:] = orientation.turn(out)


def random_crop_box(
    height: int,
    width: int,
    draws: np.ndarray,
    area: tuple[float, float] = AREA,
    max_ratio: float = MAX_RATIO,
) -> Box:
    """The first attempt that fits into the image; each row of `draws` is one attempt.

    draws: (n, 4) of area, ratio, left and top, in [0, 1). area: smallest and largest share of the
    image. If no attempt fits, the result is the largest central box of an allowed ratio.
    """
    min_area, max_area = area
    min_ratio = 1 / max_ratio
    for area_draw, ratio_draw, left, top in draws.tolist():  # scalars of numpy are slow
        box_area = height * width * (min_area + area_draw * (max_area - min_area))
        ratio = min_ratio * (max_ratio / min_ratio) ** ratio_draw
        w, h = round(math.sqrt(box_area * ratio)), round(math.sqrt(box_area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    w = min(width, max(1, round(height * max_ratio)))
    h = min(height, max(1, round(width / min_ratio)))
    return (width - w) // 2, (height - h) // 2, w, h


def center_crop(pixels: np.ndarray, side: int, resize: int, keep_ratio: bool) -> np.ndarray:
    """(side, side, 3): the center of the image after resizing it to (resize, resize).

    keep_ratio: resize the shorter side to `resize` px instead, without distortion.
    """
    height = width = resize
    if keep_ratio:
        shorter = min(pixels.shape[:2])
        # First cut off what the crop cannot reach: resizing 1 x 20,000 px would fill gigabytes.
        pixels = _center(pixels, 4 * shorter, 4 * shorter)
        height, width = (round(length * resize / shorter) for length in pixels.shape[:2])
    return _center(_resize(pixels, width, height), side, side)


def _center(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The center of an image, at most (height, width) px."""
    left = max(0, (pixels.shape[1] - width) // 2)
    top = max(0, (pixels.shape[0] - height) // 2)
    return pixels[top : top + height, left : left + width]


def _resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear, as MXNet's default, but averages a direction that shrinks by more than two.

    Bilinear interpolation reads two px in each direction, which are all of them up to that factor.
    Beyond it, it would lose details, and keep the noise of single pixels.
    """
    source_height, source_width = pixels.shape[:2]
    averaged_width = width if source_width > 2 * width else source_width
    averaged_height = height if source_height > 2 * height else source_height
    if (averaged_width, averaged_height) != (source_width, source_height):
        size = averaged_width, averaged_height
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
