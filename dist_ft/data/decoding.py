"""Bytes to pixels: (H, W, 3) uint8 RGB, upright, whatever kind of image they were."""

from __future__ import annotations

import io
import re
import threading
import warnings
from pathlib import Path
from typing import Tuple, Union

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's own bound for a decompression bomb: a quarter GB of RGB
ORIENTATION = 0x112  # Exif's tag
# A JPEG's next segment: its kind behind fill bytes, and its length with these two bytes.
SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)
START_OF_SCAN = b"\xda"  # the kind of segment before which all others stand
# Of Pillow's readers those that photographs come in: another one runs Ghostscript, say.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
TURNED = {
    2: Image.FLIP_LEFT_RIGHT,
    3: Image.ROTATE_180,
    4: Image.FLIP_TOP_BOTTOM,
    5: Image.TRANSPOSE,
    6: Image.ROTATE_270,
    7: Image.TRANSVERSE,
    8: Image.ROTATE_90,
}  # what makes a picture of such an orientation upright
BLANK = (124, 116, 104)  # ImageNet's mean colour: what a row without an image holds

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused below
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # what is wrong with Exif

Box = Tuple[int, int, int, int]  # left, top, width, height

_scratch = threading.local()  # a decoder's memory, so that it is not asked for anew an image


class CorruptImage(ValueError):
    """Bytes that hold no readable image; the message says what is wrong."""


class DecodedImage:
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


class JpegImage:
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


SourceImage = Union[JpegImage, DecodedImage]


def decode_file(path: str | Path) -> np.ndarray:
    """Pixels of an image file of any of FORMATS, upright, without alpha.

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
    return open_image(data).pixels()


def open_image(data: bytes) -> SourceImage:
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
            return JpegImage(data, height, width)
    return _by_pillow(data)


def _is_upright(jpeg: bytes) -> bool:
    """Whether what stands before the image proper tells of no rotation, as far as is seen here."""
    found = SEGMENT.match(jpeg, 2)
    while found and found[1] != START_OF_SCAN:
        end = found.start(2) + int.from_bytes(found[2], "big")
        segment = jpeg[found.end() : end]
        if segment.startswith(b"Exif\0\0"):
            return _orientation_of(segment) == 1
        if b"tiff:Orientation" in segment:  # of Adobe's XMP, which Pillow reads
            return False
        found = SEGMENT.match(jpeg, end) if end >= found.end() else None
    return found is not None


def _orientation_of(segment: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(ORIENTATION)
    except Exception:  # Pillow's reader of TIFF raises many kinds for bytes that are none
        return 0


def _by_pillow(data: bytes) -> DecodedImage:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # gluoncv's import lets half a file pass for a picture
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            return DecodedImage(np.asarray(_as_rgb(_upright(image))))
    except CorruptImage:
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(f"no image of a kind that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's readers raise of every kind for bytes that they lack
        raise CorruptImage(str(error) or type(error).__name__) from error


def _upright(image: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, which writes the Exif anew, too, and fails where it cannot."""
    try:
        turn = TURNED.get(image.getexif().get(ORIENTATION))
    except Exception:  # as above
        turn = None
    return image if turn is None else image.transpose(turn)


def _buffer(size: int) -> np.ndarray:
    """This thread's memory of at least so many bytes."""
    if getattr(_scratch, "bytes", None) is None or _scratch.bytes.size < size:
        _scratch.bytes = np.empty(size, np.uint8)
    return _scratch.bytes


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise CorruptImage(f"{width} x {height} px, more than the {MAX_PIXELS} px that are read")


def _share_of_white(grey: np.ndarray, mode: str) -> np.ndarray:
    """0..1 of grey that is no byte. 16 bits say what is white; of other numbers it is the least of
    1 (of floats), 255 and 65535 that none exceeds."""
    top = float(grey.max())
    if mode.startswith("I;16") or top > 255:
        white = 65535.0
    else:
        white = 1.0 if mode == "F" and top <= 1 else 255.0
    return np.clip(grey / white, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # convert() would clip, not scale
        grey = np.asarray(image, np.float32)
        image = Image.fromarray((_share_of_white(grey, image.mode) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
