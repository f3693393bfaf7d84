"""Decodes images of all formats with Pillow."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from dist_ft.data import heif, png, tiff
from dist_ft.data.bit_depth import to_8_bits
from dist_ft.data.image import CorruptImage, DecodedImage, check_size
from dist_ft.data.orientation import EXIF_ORIENTATION

# Pillow's other readers are left out: the one of PostScript runs Ghostscript, for example.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")

UPRIGHT = {  # the transposition that turns an image of this Exif orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is checked
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # damaged Exif is harmless


def read(data: bytes) -> DecodedImage:
    """The upright image, on white where it is transparent. Raises CorruptImage."""
    # Importing gluoncv sets this to True, and truncated files would decode to half-gray images.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        return DecodedImage(_read(data))
    except CorruptImage:
        raise
    except UnidentifiedImageError as error:
        names = ", ".join((*FORMATS, "TIFF", *heif.BRANDS))
        raise CorruptImage(f"not an image of a supported format ({names})") from error
    except Exception as error:  # Pillow's readers raise errors of many types for damaged data
        raise CorruptImage(str(error) or type(error).__name__) from error


def _read(data: bytes) -> np.ndarray:
    if data.startswith(tiff.STARTS):
        return np.asarray(_on_white(tiff.load(data)))
    if data.startswith(png.START):
        data = png.without_metadata(data)
    with _open(data) as image:
        check_size(*image.size)
        image.load()
        transposition = _transposition(image)
        rgb = _on_white(_to_8_bits(image, data))
        return np.asarray(rgb if transposition is None else rgb.transpose(transposition))


def _open(data: bytes) -> Image.Image:
    phone_format = heif.format_of(data)
    if phone_format is None:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    heif.load_reader(phone_format)
    try:
        return Image.open(io.BytesIO(data), formats=[phone_format])
    except UnidentifiedImageError as error:
        raise CorruptImage(f"damaged {phone_format} image") from error


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """Like ImageOps.exif_transpose, which also rewrites the Exif and fails if that is damaged."""
    try:
        return UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # Pillow raises errors of many types for damaged Exif
        return None


def _to_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    """The image with 8 bits per sample; Pillow's convert() would clip instead of scaling."""
    if image.format == "PNG":
        image = png.resolve_transparency(image, data)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bits(np.asarray(image)))
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
