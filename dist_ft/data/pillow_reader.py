"""Decodes images of all formats with Pillow."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from dist_ft.data import png
from dist_ft.data.image import CorruptImage, DecodedImage, check_size

# Pillow's other readers are left out: the one of PostScript runs Ghostscript, for example.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")

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

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is checked
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # damaged Exif is harmless


def read(data: bytes) -> DecodedImage:
    """The upright image, on white where it is transparent. Raises CorruptImage."""
    # Importing gluoncv sets this to True, and truncated files would decode to half-gray images.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if data.startswith(png.START):
        data = png.without_metadata(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(*image.size)
            return DecodedImage(np.asarray(_to_rgb(_turn_upright(image))))
    except CorruptImage:
        raise
    except UnidentifiedImageError as error:
        raise CorruptImage(f"not an image of a supported format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's readers raise errors of many types for damaged data
        raise CorruptImage(str(error) or type(error).__name__) from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """Like ImageOps.exif_transpose, which also rewrites the Exif and fails if that is damaged."""
    image.load()
    if image.format == "TIFF":  # which load() has turned
        return image
    try:
        transposition = UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # Pillow raises errors of many types for damaged Exif
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
