"""Bytes to pixels: (H, W, 3) uint8 RGB, upright, whatever kind of image they were."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Tuple, Union

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps

MAX_PIXELS = 89_478_485  # Pillow's own bound for a decompression bomb: a quarter GB of RGB
ORIENTATION = 0x112  # Exif's tag
START_OF_SCAN = b"\xff\xda"  # of a JPEG: what stands before it are its segments
BLANK = (124, 116, 104)  # ImageNet's mean colour: what a row without an image holds

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused below

Box = Tuple[int, int, int, int]  # left, top, width, height

_scratch = threading.local()  # a decoder's memory, so that it is not asked for anew an image


class CorruptImage(ValueError):
    """Bytes that hold no readable image; the message says what is wrong."""


class Pixels:
    """A picture that is decoded."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def pixels(self) -> np.ndarray:
        return self._pixels

    def crop(self, box: Box, side: int) -> np.ndarray:
        """What a box shows, to be resized to `side` px a side; to be read, not kept."""
        left, top, width, height = box
        return self._pixels[top : top + height, left : left + width]


class Jpeg:
    """A picture that libjpeg-turbo decodes, at the size that is asked for."""

    def __init__(self, data: bytes, height: int, width: int):
        self._data, self.height, self.width = data, height, width

    def pixels(self) -> np.ndarray:
        """All of them, as exact as can be. Raises CorruptImage."""
        try:
            return simplejpeg.decode_jpeg(self._data, "RGB")
        except ValueError:  # Pillow is more lenient
            return _by_pillow(self._data).pixels()

    def crop(self, box: Box, side: int) -> np.ndarray:
        """What a box shows, to be resized to `side` px a side; valid until this thread's next one.

        Decoded at a half, a quarter or an eighth where that leaves `side` px, and with chroma that
        is repeated, not interpolated: a sixth sooner than `pixels`. Raises CorruptImage.
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
                buffer=_buffer(height * width * 3),
            )
        except ValueError:
            return _by_pillow(self._data).crop(box, side)
        left, top, width, height = box
        rows = slice(round(top / shrink), round((top + height) / shrink))
        return pixels[rows, round(left / shrink) : round((left + width) / shrink)]


Picture = Union[Jpeg, Pixels]


def read(path: str | Path) -> np.ndarray:
    """Pixels of an image file of any kind that Pillow reads, upright, without alpha.

    Transparent images are laid on white; of an animation the first frame counts. Raises
    CorruptImage, which names the file, where it is missing, empty, truncated, no image, or over
    MAX_PIXELS.
    """
    try:
        return decode(Path(path).read_bytes())
    except (OSError, CorruptImage) as error:
        raise CorruptImage(f"{path}: {error}") from error


def decode(data: bytes) -> np.ndarray:
    """Pixels of an encoded image. Raises CorruptImage."""
    return picture(data).pixels()


def picture(data: bytes) -> Picture:
    """An encoded image, of which a JPEG is not decoded yet. Raises CorruptImage."""
    if not data:
        raise CorruptImage("the file is empty")
    # libjpeg-turbo is three times as fast, but leaves CMYK, rotation and leniency to Pillow.
    if data[:3] == b"\xff\xd8\xff" and _is_upright(data):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return _by_pillow(data)
        if colours in ("YCbCr", "RGB", "Gray"):
            _check_size(width, height)
            return Jpeg(data, height, width)
    return _by_pillow(data)


def _is_upright(jpeg: bytes) -> bool:
    """Whether no Exif segment stands before the image proper, or one that tells of no rotation."""
    position = 2
    while jpeg[position : position + 2] not in (START_OF_SCAN, b""):
        length = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        segment = jpeg[position + 4 : position + 2 + length]
        if segment[:6] == b"Exif\0\0":
            return _orientation(segment) == 1
        position += 2 + length
    return True


def _orientation(segment: bytes) -> int | None:
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(ORIENTATION)
    except Exception:  # Pillow's reader of TIFF raises many kinds for bytes that are none
        return None


def _by_pillow(data: bytes) -> Pixels:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # gluoncv's import lets half a file pass for a picture
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            return Pixels(np.asarray(_as_rgb(ImageOps.exif_transpose(image))))
    except CorruptImage:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        # Pillow's plug-ins raise SyntaxError for a broken header.
        raise CorruptImage(str(error) or type(error).__name__) from error


def _buffer(size: int) -> np.ndarray:
    """This thread's memory of at least so many bytes."""
    if getattr(_scratch, "bytes", None) is None or _scratch.bytes.size < size:
        _scratch.bytes = np.empty(size, np.uint8)
    return _scratch.bytes


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise CorruptImage(f"{width} x {height} px, more than the {MAX_PIXELS} px that are read")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit grey: convert() would clip, not scale
        grey = np.asarray(image, np.float32)
        grey = grey * (255 / 65535) if grey.max() > 255 else grey
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
