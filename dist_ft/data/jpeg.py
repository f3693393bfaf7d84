"""Decodes upright JPEGs with libjpeg-turbo."""

from __future__ import annotations

import re
import threading

import numpy as np
import simplejpeg
from PIL import Image

from dist_ft.data import pillow_reader
from dist_ft.data.image import Box

START = b"\xff\xd8\xff"
# A segment of a JPEG: optional fill bytes, its type, and its length, which counts itself.
SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)
START_OF_SCAN = b"\xda"  # the type of the segment that ends the metadata

_thread_local = threading.local()  # holds each thread's decoding buffer, to avoid reallocating it


class JpegImage:
    """A JPEG that libjpeg-turbo decodes when its pixels are needed, at reduced size if possible."""

    def __init__(self, data: bytes, height: int, width: int):
        self._data, self.height, self.width = data, height, width

    def pixels(self) -> np.ndarray:
        """All pixels, with exact chroma upsampling. Raises CorruptImage."""
        try:
            return simplejpeg.decode_jpeg(self._data, "RGB")
        except ValueError:  # Pillow tolerates more
            return pillow_reader.read(self._data).pixels()

    def crop(self, box: Box, side: int) -> np.ndarray:
        """The pixels in the box, which are to be resized to (side, side).

        If the box stays at least `side` px wide and high, the image is decoded at 1/2, 1/4 or 1/8
        of its size, so the result is smaller than the box. Chroma is repeated, not interpolated,
        which saves a sixth of the time. The result is in a buffer that the next call of this thread
        overwrites. Raises CorruptImage.
        """
        shrink = next((s for s in (8, 4, 2) if min(box[2:]) >= s * side), 1)
        height, width = -(-self.height // shrink), -(-self.width // shrink)
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
            return pillow_reader.read(self._data).crop(box, side)
        left, top, width, height = box
        rows = slice(round(top / shrink), round((top + height) / shrink))
        columns = slice(round(left / shrink), round((left + width) / shrink))
        return pixels[rows, columns]


def is_upright(jpeg: bytes) -> bool:
    """True if the JPEG's metadata is intact and certainly declares no rotation."""
    segment = SEGMENT.match(jpeg, 2)
    while segment and segment[1] != START_OF_SCAN:
        end = segment.start(2) + int.from_bytes(segment[2], "big")
        content = jpeg[segment.end() : end]
        if content.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(content)
            if orientation is not None:
                return orientation == 1
        if b"tiff:Orientation" in content:  # in Adobe's XMP, which Pillow parses
            return False
        segment = SEGMENT.match(jpeg, end) if end >= segment.end() else None
    return segment is not None


def _exif_orientation(segment: bytes) -> int | None:
    """1 means upright; None that there is no such tag, and 0 that the segment is damaged."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(pillow_reader.EXIF_ORIENTATION)
    except Exception:  # Pillow raises errors of many types for damaged Exif
        return 0


def _thread_buffer(size: int) -> np.ndarray:
    """A buffer of at least `size` bytes that belongs to this thread."""
    buffer = getattr(_thread_local, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _thread_local.buffer = np.empty(size, np.uint8)
    return buffer
