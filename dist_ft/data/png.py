"""What Pillow gets wrong about PNGs: metadata, and transparent colors of other than 8 bits."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from dist_ft.data.bit_depth import to_8_bits

START = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">I4s")  # of a chunk: the length of its content and its kind
CHECKSUM_BYTES = 4
BITS, COLOR_TYPE = 24, 25  # places of these bytes in the file
GRAY, RGB = 0, 2  # color types

PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
MAX_TEXT_BYTES = 2**20  # Pillow rejects an image with a compressed text that is larger


def without_metadata(png: bytes) -> bytes:
    """The PNG with only the chunks that its pixels or its orientation need.

    Editors store color profiles, prompts and whole documents in the other ones. Pillow rejects the
    image if one of them is large or damaged; other programs show it.
    """
    view, start = memoryview(png), len(START)
    kept = [view[:start]]
    while start + HEADER.size <= len(png):
        length, kind = HEADER.unpack_from(png, start)
        end = start + HEADER.size + length + CHECKSUM_BYTES
        if kind in PIXELS or _may_hold_orientation(kind, view[start:end]):
            kept.append(view[start:end])
        start = end
    return b"".join(kept)


def _may_hold_orientation(kind: bytes, chunk: memoryview) -> bool:
    content = chunk[HEADER.size : -CHECKSUM_BYTES]
    if kind in TEXTS:
        if not bytes(content[:40]).startswith(ORIENTATION_KEYWORDS):
            return False
        if not _is_accepted_text(kind, bytes(content)):
            return False
    elif kind != b"eXIf":
        return False
    return zlib.crc32(chunk[4:-CHECKSUM_BYTES]) == int.from_bytes(chunk[-CHECKSUM_BYTES:], "big")


def _is_accepted_text(kind: bytes, content: bytes) -> bool:
    """False if the text is damaged, or compressed and larger than MAX_TEXT_BYTES."""
    _, _, rest = content.partition(b"\0")
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):  # not compressed
        return True
    # In an iTXt, the flag and the method are followed by a language and a translated keyword.
    compressed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(compressed, MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return not inflater.unconsumed_tail


def resolve_transparency(image: Image.Image, png: bytes) -> Image.Image:
    """The image with alpha instead of a transparent color, which Pillow compares with 8 bits."""
    bits, color_type, transparent = png[BITS], png[COLOR_TYPE], image.info.get("transparency")
    if transparent is None or color_type not in (GRAY, RGB) or bits in (1, 8):
        return image
    if color_type == RGB:
        samples = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        return Image.fromarray(cv2.cvtColor(to_8_bits(samples), cv2.COLOR_BGRA2RGBA))
    gray = np.asarray(image)
    if bits == 16:
        pixels = to_8_bits(gray)
    else:  # Pillow has scaled the pixels to 8 bits
        pixels, transparent = gray, transparent * 255 // (2**bits - 1)
    alpha = np.where(gray == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(pixels), Image.fromarray(alpha)])
