"""Bytes to pixels, and pixels to the network's view of them: (H, W, 3) uint8 RGB throughout."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Tuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps

MAX_PIXELS = 89_478_485  # Pillow's own bound for a decompression bomb: a quarter GB of RGB
AREA = (0.08, 1.0)  # random resized crop: share of the image, and
RATIO = (3 / 4, 4 / 3)  # width over height, as in Szegedy et al. 2014 and gluon's transform
NUM_DRAWS = 41  # random numbers an augmentation takes: 10 tries of 4, and a flip
BLANK = (124, 116, 104)  # ImageNet's mean colour: what a row without an image holds

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused below
cv2.setNumThreads(1)  # the loader's workers are the parallelism

Box = Tuple[int, int, int, int]  # left, top, width, height


class CorruptImage(ValueError):
    """A file that holds no readable image; the message names it and says what is wrong."""


def read(path: str | Path) -> np.ndarray:
    """Pixels of an image file of any kind that Pillow reads, upright, without alpha.

    Transparent images are laid on white; of an animation the first frame counts. Raises
    CorruptImage for a file that is missing, empty, truncated, no image, or over MAX_PIXELS.
    """
    try:
        data = Path(path).read_bytes()
        if not data:
            raise ValueError("the file is empty")
        return decode(data)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        # Pillow's plug-ins raise SyntaxError for a broken header.
        raise CorruptImage(f"{path}: {error or type(error).__name__}") from error


def decode(data: bytes) -> np.ndarray:
    """Pixels of an encoded image; raises what Pillow raises for a broken one."""
    # libjpeg-turbo is three times as fast, but leaves CMYK, rotation and leniency to Pillow.
    if data[:3] == b"\xff\xd8\xff" and b"Exif\0\0" not in data[:65536]:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in ("YCbCr", "RGB", "Gray"):
                _check_size(width, height)
                return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:
            pass
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # gluoncv's import lets half a file pass for a picture
    with Image.open(io.BytesIO(data)) as image:
        _check_size(*image.size)
        return np.asarray(_as_rgb(ImageOps.exif_transpose(image)))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} px, more than the {MAX_PIXELS} px that are read")


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


def train_view(pixels: np.ndarray, side: int, draws: np.ndarray) -> np.ndarray:
    """(side, side, 3): a random resized crop, mirrored half of the time.

    draws: (NUM_DRAWS,) in [0, 1), all the chance there is in it.
    """
    box = crop_box(pixels.shape[0], pixels.shape[1], draws[:-1].reshape(-1, 4))
    view = _resize(_crop(pixels, box), side, side)
    return view[:, ::-1] if draws[-1] < 0.5 else view


def crop_box(height: int, width: int, draws: np.ndarray) -> Box:
    """The first of the tries, a row of `draws` each (area, ratio, left, top), that fits; where
    none does, the largest central box whose ratio is allowed."""
    for area, ratio, left, top in draws:
        area = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** ratio
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(left * (width - w + 1)), int(top * (height - h + 1)), w, h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def test_view(pixels: np.ndarray, side: int, resize: int, keep_ratio: bool) -> np.ndarray:
    """(side, side, 3): the centre of the image resized to `resize` px a side, or, with
    `keep_ratio`, to that many px on its shorter side."""
    height = width = resize
    if keep_ratio:
        shorter = min(pixels.shape[:2])
        # Without what the crop cannot reach: a line of 1 x 20,000 px would fill gigabytes.
        pixels = _centre(pixels, 4 * shorter, 4 * shorter)
        height, width = (round(length * resize / shorter) for length in pixels.shape[:2])
    return _centre(_resize(pixels, width, height), side, side)


def _centre(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of an image, at most so many px a side."""
    left, top = (pixels.shape[1] - width) // 2, (pixels.shape[0] - height) // 2
    return _crop(pixels, (max(0, left), max(0, top), width, height))


def _crop(pixels: np.ndarray, box: Box) -> np.ndarray:
    left, top, width, height = box
    return pixels[top : top + height, left : left + width]


def _resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear between four neighbours, as MXNet's own image functions resize by default."""
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
