"""A decoded image, and the limits that all decoders share."""

from __future__ import annotations

import numpy as np

from dist_ft.data.orientation import UPRIGHT, Box, Orientation

MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB of RGB
BLANK = (124, 116, 104)  # ImageNet's mean color, for rows of a batch that have no image


class CorruptImage(ValueError):
    """Bytes that cannot be decoded as an image. The message gives the reason."""


class DecodedImage:
    """An image whose pixels are in memory."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def pixels(self) -> np.ndarray:
        return self._pixels

    def crop(self, box: Box, side: int) -> np.ndarray:
        """A view of the pixels in the box."""
        return self.stored_crop(box, side)[0]

    def stored_crop(self, box: Box, side: int) -> tuple[np.ndarray, Orientation]:
        """The same, and that it is upright."""
        left, top, width, height = box
        return self._pixels[top : top + height, left : left + width], UPRIGHT


def check_size(width: int, height: int) -> None:
    """Raises CorruptImage if the image has more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise CorruptImage(f"{width} x {height} px, more than the limit of {MAX_PIXELS:,} px")
