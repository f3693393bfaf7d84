"""Decodes JPEGs with libjpeg-turbo."""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg

from dist_ft.data import pillow_reader
from dist_ft.data.orientation import Box, Orientation, orientation_of

START = b"\xff\xd8\xff"

_thread_local = threading.local()  # holds each thread's decoding buffer, to avoid reallocating it


class JpegImage:
    """A JPEG that libjpeg-turbo decodes when its pixels are needed, at reduced size if possible.

    height, width: px of the upright image; those of the arguments are of the stored one.
    """

    def __init__(self, data: bytes, height: int, width: int):
        self._data, self._stored_size = data, (height, width)
        self._orientation = orientation_of(data)
        is_turned = self._orientation.transposes
        self.height, self.width = (width, height) if is_turned else (height, width)

    def pixels(self) -> np.ndarray:
        """All pixels, with exact chroma upsampling. Raises CorruptImage."""
        try:
            return self._orientation.turn(simplejpeg.decode_jpeg(self._data, "RGB"))
        except ValueError:  # Pillow tolerates more
            return pillow_reader.read(self._data).pixels()

    def crop(self, box: Box, side: int) -> np.ndarray:
        """The pixels in the box, which are to be resized to (side, side); see `stored_crop`."""
        pixels, orientation = self.stored_crop(box, side)
        return orientation.turn(pixels)

    def stored_crop(self, box: Box, side: int) -> tuple[np.ndarray, Orientation]:
        """The pixels in the box, as they are stored, and their orientation.

        If the box stays at least `side` px wide and high, the image is decoded at 1/2, 1/4 or 1/8
        of its size, so the result is smaller than the box. Chroma is repeated, not interpolated,
        which saves a sixth of the time. The result may be in a buffer that the next call of this
        thread overwrites. Raises CorruptImage.
        """
        shrink = next((s for s in (8, 4, 2) if min(box[2:]) >= s * side), 1)
        height, width = (-(-length // shrink) for length in self._stored_size)
        try:
            pixels = simplejpeg.decode_jpeg(
                self._data,
                "RGB",
                fastdct=True,
                fastupsample=True,
                min_height=height,
                min_width=width,
                min_factor=shrink,
                buffer=_thread_buffer(height * width * 3),
            )
        except ValueError:
            return pillow_reader.read(self._data).stored_crop(box, side)
        left, top, width, height = self._orientation.stored_box(box, *self._stored_size)
        rows = slice(round(top / shrink), round((top + height) / shrink))
        columns = slice(round(left / shrink), round((left + width) / shrink))
        return pixels[rows, columns], self._orientation


def _thread_buffer(size: int) -> np.ndarray:
    """A buffer of at least `size` bytes that belongs to this thread."""
    buffer = getattr(_thread_local, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _thread_local.buffer = np.empty(size, np.uint8)
    return buffer
