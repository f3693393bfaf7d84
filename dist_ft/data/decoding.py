"""Decodes images of all common formats to upright (H, W, 3) uint8 RGB pixels."""

from __future__ import annotations

import io
import re
import threading
import warnings
from typing import Tuple, Union

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB of RGB
# Pillow's other readers are left out: the one of PostScript runs Ghostscript, for example.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
BLANK = (124, 116, 104)  # ImageNet's mean color, for rows of a batch that have no image

JPEG_START = b"\xff\xd8\xff"
# A segment of a JPEG: optional fill bytes, its type, and its length, which counts itself.
JPEG_SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)
START_OF_SCAN = b"\xda"  # the type of the segment that ends the metadata
EXIF_ORIENTATION = 0x112
UPRIGHT = {  # the transposition that turns an image of this Exif orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Box = Tuple[int, int, int, int]  # left, top, width, height

_thread_local = threading.local()  # holds each thread's decoding buffer, to avoid reallocating it

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is checked
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # damaged Exif is harmless


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
        left, top, width, height = box
        return self._pixels[top : top + height, left : left + width]


class JpegImage:
    """A JPEG that libjpeg-turbo decodes when its pixels are needed, at reduced size if possible."""

    def __init__(self, data: bytes, height: int, width: int):
        self._data, self.height, self.width = data, height, width

    def pixels(self) -> np.ndarray:
        """All pixels, with exact chroma upsampling. Raises CorruptImage."""
        try:
            return simplejpeg.decode_jpeg(self._data, "RGB")
        except ValueError:  # Pillow tolerates more
            return _decode_with_pillow(self._data).pixels()

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
            return _decode_with_pillow(self._data).crop(box, side)
        left, top, width, height = box
        rows = slice(round(top / shrink), round((top + height) / shrink))
        columns = slice(round(left / shrink), round((left + width) / shrink))
        return pixels[rows, columns]


SourceImage = Union[JpegImage, DecodedImage]


def decode(data: bytes) -> np.ndarray:
    """The pixels of an encoded image.

    Transparent parts become white; of an animation, the first frame is used. Raises CorruptImage
    if the data is empty, truncated, not of a format in FORMATS, or exceeds MAX_PIXELS.
    """
    return open_image(data).pixels()


def open_image(data: bytes) -> SourceImage:
    """An encoded image; a JPEG is not decoded yet. Raises CorruptImage."""
    if not data:
        raise CorruptImage("the file is empty")
    # libjpeg-turbo is three times as fast as Pillow, which handles CMYK, rotation and damage.
    if data.startswith(JPEG_START) and _is_upright(data):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return _decode_with_pillow(data)
        if colorspace in ("YCbCr", "RGB", "Gray"):
            _check_size(width, height)
            return JpegImage(data, height, width)
    return _decode_with_pillow(data)


def _is_upright(jpeg: bytes) -> bool:
    """True if the JPEG's metadata is intact and certainly declares no rotation."""
    segment = JPEG_SEGMENT.match(jpeg, 2)
    while segment and segment[1] != START_OF_SCAN:
        end = segment.start(2) + int.from_bytes(segment[2], "big")
        content = jpeg[segment.end() : end]
        if content.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(content)
            if orientation is not None:
                return orientation == 1
        if b"tiff:Orientation" in content:  # in Adobe's XMP, which Pillow parses
            return False
        segment = JPEG_SEGMENT.match(jpeg, end) if end >= segment.end() else None
    return segment is not None


def _exif_orientation(segment: bytes) -> int | None:
    """1 means upright; None that there is no such tag, and 0 that the segment is damaged."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(EXIF_ORIENTATION)
    except Exception:  # Pillow raises errors of many types for damaged Exif
        return 0


def _decode_with_pillow(data: bytes) -> DecodedImage:
    # Importing gluoncv sets this to True, and truncated files would decode to half-gray images.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            return DecodedImage(np.asarray(_to_rgb(_turn_upright(image))))
    except CorruptImage:
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(f"not an image of a supported format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's readers raise errors of many types for damaged data
        raise CorruptImage(str(error) or type(error).__name__) from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """Like ImageOps.exif_transpose, which also rewrites the Exif and fails if that is damaged."""
    try:
        transposition = UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # as in _exif_orientation
        transposition = None
    return image if transposition is None else image.transpose(transposition)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # convert() would clip instead of scaling
        gray = np.asarray(image, np.float32)
        image = Image.fromarray((_scale_to_unit(gray, image.mode) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _scale_to_unit(gray: np.ndarray, mode: str) -> np.ndarray:
    """Scales gray values of more than 8 bits so that white is 1, and clips them to 0..1.

    White is 65535 for 16-bit images. Other modes do not say, so white is the smallest of 1 (for
    floats), 255 and 65535 that is not exceeded.
    """
    largest = float(gray.max())
    if mode.startswith("I;16") or largest > 255:
        white = 65535.0
    else:
        white = 1.0 if mode == "F" and largest <= 1 else 255.0
    return np.clip(gray / white, 0, 1)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise CorruptImage(f"{width} x {height} px, more than the limit of {MAX_PIXELS:,} px")


def _thread_buffer(size: int) -> np.ndarray:
    """A buffer of at least `size` bytes that belongs to this thread."""
    buffer = getattr(_thread_local, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _thread_local.buffer = np.empty(size, np.uint8)
    return buffer
