"""Pictures as cameras store them, and TIFF and PNG files that Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Sequence

import numpy as np
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_COLOR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # by number of channels
SHORT, LONG = 3, 4  # types of TIFF tags
UINT, INT, FLOAT = 1, 2, 3  # the values of TIFF's SampleFormat

EXIF_ORIENTATION = 0x112
STORE = {  # how a camera stores upright pixels, by the orientation that it declares
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels, -1),
}


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(STORE[orientation](upright))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def deeper(pixels: np.ndarray, bits: int) -> np.ndarray:
    """The same picture with 9 to 16 bits per sample instead of 8."""
    return np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint16)


def on_three_channels(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=-1)


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(pixels: np.ndarray, bits: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """pixels: (H, W) or (H, W, channels); before, after: chunks around those of the pixels."""
    pixels = np.atleast_3d(pixels)
    height, width, channels = pixels.shape
    color_type = PNG_COLOR_TYPES[channels]
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row for row in _packed_rows(pixels, bits))  # 0: unfiltered
    chunks = (
        *(chunk(b"IHDR", header), before),
        *(chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b"")),
    )
    return PNG_START + b"".join(chunks)


def tiff(
    pixels: np.ndarray,
    bits: int,
    photometric: int = 1,
    order: str = "<",
    sample_format: int = UINT,
    extra_samples: Sequence[int] = (),
    orientation: int = 1,
    planar: bool = False,
) -> bytes:
    """An uncompressed TIFF. pixels: (H, W) or (H, W, samples).

    photometric: 0 if white is zero, 1 if black is, 2 for RGB; order: "<" or ">" of the bytes.
    """
    pixels = np.atleast_3d(pixels)
    height, width, samples = pixels.shape
    planes = np.moveaxis(pixels, 2, 0)[..., None] if planar else pixels[None]
    strips = [b"".join(_packed_rows(plane, bits, order)) for plane in planes]
    starts = 8 + np.cumsum([0, *map(len, strips)])
    tags = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * samples),
        259: (SHORT, [1]),  # no compression
        262: (SHORT, [photometric]),
        273: (LONG, starts[:-1].tolist()),
        274: (SHORT, [orientation]),
        277: (SHORT, [samples]),
        278: (LONG, [height]),
        279: (LONG, [len(strip) for strip in strips]),
        284: (SHORT, [2 if planar else 1]),
        338: (SHORT, list(extra_samples)),
        339: (SHORT, [sample_format] * samples),
    }
    start = starts[-1] + starts[-1] % 2
    body = b"".join(strips).ljust(start - 8, b"\0")
    magic = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return magic + body + _directory(tags, order, start)


def _packed_rows(pixels: np.ndarray, bits: int, order: str = ">") -> list[bytes]:
    """The rows of (H, W, channels), each padded to whole bytes."""
    rows = pixels.reshape(len(pixels), -1)
    if bits % 8 == 0:
        return [row.tobytes() for row in rows.astype(rows.dtype.newbyteorder(order))]
    digits = rows[..., None] >> np.arange(bits)[::-1] & 1
    return [np.packbits(row).tobytes() for row in digits.astype(np.uint8)]


def _directory(tags: dict[int, tuple[int, list[int]]], order: str, start: int) -> bytes:
    """The directory of a TIFF at this place, followed by the values that do not fit into it."""
    tags = {tag: field for tag, field in tags.items() if field[1]}
    entries, values = b"", b""
    values_start = start + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in tags.items():
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", values_start + len(values))
            values += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values
