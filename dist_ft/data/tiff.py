"""Loads TIFFs: with Pillow, or with OpenCV where Pillow fails."""

from __future__ import annotations

import io
from typing import Any, Mapping

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from dist_ft.data.bit_depth import to_8_bits
from dist_ft.data.image import CorruptImage, check_size

STARTS = (b"II*\0", b"MM\0*", b"II+\0")  # the last one of BigTIFF

Tags = Mapping[int, Any]
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
CHANNELS, PLANES, SAMPLE_FORMAT = 277, 284, 339
WHITE_IS_ZERO, RGB = 0, 2  # values of PHOTOMETRIC
UNSIGNED, FLOAT = 1, 3  # values of SAMPLE_FORMAT
KINDS = {UNSIGNED: "unsigned", 2: "signed", FLOAT: "floating-point"}
OPENCV_READS = {UNSIGNED: (10, 12, 14, 16), FLOAT: (32, 64)}

# Pillow's own reader of uncompressed files misreads 16-bit samples in separate planes.
TiffImagePlugin.READ_LIBTIFF = True


def load(data: bytes) -> Image.Image:
    """The first page, upright, with 8 bits per sample. Raises CorruptImage.

    Raises errors of other types, too, if the data is damaged.
    """
    tags = _read_tags(data)
    check_size(tags.get(WIDTH, 0), tags.get(HEIGHT, 0))
    if _sample_format(tags) == FLOAT:  # Pillow confuses the byte orders of some
        return _load_with_opencv(data, tags)
    try:
        image = Image.open(io.BytesIO(data), formats=["TIFF"])
    except (UnidentifiedImageError, KeyError):  # KeyError: unknown compression
        return _load_with_opencv(data, tags)
    if _sample_format(tags) != UNSIGNED or _bits(tags) > 16:  # what is white is not defined
        raise CorruptImage(_unsupported(tags))
    try:
        image.load()  # which also turns it upright
    except (OSError, ValueError) as error:
        raise CorruptImage(f"damaged, or {_unsupported(tags)} ({error})") from error
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(_gray_pixels(np.asarray(image), tags))


def _load_with_opencv(data: bytes, tags: Tags) -> Image.Image:
    photometric, bits = tags.get(PHOTOMETRIC, WHITE_IS_ZERO), _bits(tags)
    channels = 3 if photometric == RGB else 1
    if (
        photometric > RGB
        or bits not in OPENCV_READS.get(_sample_format(tags), ())
        or tags.get(CHANNELS, 1) != channels  # OpenCV drops alpha
        or (channels > 1 and tags.get(PLANES, 1) != 1)  # and misreads separate planes
    ):
        raise CorruptImage(_unsupported(tags))
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # upright
    if samples is None:
        raise CorruptImage(f"damaged, or {_unsupported(tags)}")
    if samples.dtype == np.uint16:
        samples = np.right_shift(samples, 16 - bits)  # which OpenCV has shifted to the left
    if photometric == RGB:
        return Image.fromarray(to_8_bits(samples[..., ::-1], 2**bits - 1))
    return Image.fromarray(_gray_pixels(samples, tags))


def _gray_pixels(samples: np.ndarray, tags: Tags) -> np.ndarray:
    pixels = to_8_bits(samples, 2 ** _bits(tags) - 1)
    return 255 - pixels if tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO else pixels


def _read_tags(data: bytes) -> Tags:
    """The tags of the first page. Raises errors of many types for damaged data."""
    header_bytes = 16 if data[2:3] == b"+" else 8
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[:header_bytes])
    file = io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    return directory


def _bits(tags: Tags) -> int:
    return max(tags.get(BITS, (1,)))


def _sample_format(tags: Tags) -> int:
    return max(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))


def _unsupported(tags: Tags) -> str:
    kind = KINDS.get(_sample_format(tags), "undefined")
    samples = f"{tags.get(CHANNELS, 1)} x {_bits(tags)}-bit {kind} samples"
    return (
        f"a TIFF with {samples} and compression {tags.get(COMPRESSION, 1)} is not supported: save"
        " it as PNG, or with 8 or 16 bits per sample"
    )
