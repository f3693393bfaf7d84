"""Decodes images of all common formats to upright (H, W, 3) uint8 RGB pixels."""

from __future__ import annotations

from typing import Union

import numpy as np
import simplejpeg

from dist_ft.data import jpeg, pillow_reader
from dist_ft.data.image import CorruptImage, DecodedImage, check_size
from dist_ft.data.jpeg import JpegImage

SourceImage = Union[JpegImage, DecodedImage]


def decode(data: bytes) -> np.ndarray:
    """The pixels of an encoded image.

    Transparent parts become white; of an animation, the first frame is used. Raises CorruptImage
    if the data is empty, truncated, not of a supported format, or exceeds MAX_PIXELS.
    """
    return open_image(data).pixels()


def open_image(data: bytes) -> SourceImage:
    """An encoded image; a JPEG is not decoded yet. Raises CorruptImage."""
    if not data:
        raise CorruptImage("the file is empty")
    # libjpeg-turbo is three times as fast as Pillow, which handles CMYK and damage.
    if data.startswith(jpeg.START):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return pillow_reader.read(data)
        if colorspace in ("YCbCr", "RGB", "Gray"):
            check_size(width, height)
            return JpegImage(data, height, width)
    return pillow_reader.read(data)
