"""data.png: metadata, transparent colors and depths of PNGs."""

import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import PngImagePlugin

from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from tests.image_bytes import chunk, deeper, exif, on_three_channels, png, stored

UPRIGHT = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
RAW_PROFILE = f"\nexif\n{len(exif(6).tobytes()):8}\n{exif(6).tobytes().hex()}\n".encode()
ORIENTATION_CHUNKS = {
    "eXIf": (b"eXIf", exif(6).tobytes()[6:]),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "compressed XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(XMP)),
    "ImageMagick's": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE)),
    "ImageMagick's, plain": (b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE),
}


@pytest.mark.parametrize("kind", ORIENTATION_CHUNKS)
def test_the_orientation_of_a_png_is_found_before_and_after_its_pixels(kind):
    metadata, pixels = chunk(*ORIENTATION_CHUNKS[kind]), stored(UPRIGHT, 6)
    assert (decode(png(pixels, 8, before=metadata)) == UPRIGHT).all()
    assert (decode(png(pixels, 8, after=metadata)) == UPRIGHT).all()


LARGE = zlib.compress(bytes(3 * PngImagePlugin.MAX_TEXT_CHUNK))
LARGE_CHUNKS = {
    "zTXt": (b"zTXt", b"prompt\0\0" + LARGE),
    "iTXt": (b"iTXt", b"prompt\0\1\0en\0\0" + LARGE),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "Exif as text": (b"zTXt", b"Raw profile type exif\0\0" + LARGE),
    "iCCP": (b"iCCP", b"profile\0\0" + LARGE),
}


@pytest.mark.parametrize("kind", LARGE_CHUNKS)
def test_large_metadata_of_a_png_does_not_affect_its_pixels(kind):
    metadata = chunk(*LARGE_CHUNKS[kind])
    assert (decode(png(UPRIGHT, 8, before=metadata)) == UPRIGHT).all()
    assert (decode(png(UPRIGHT, 8, after=metadata)) == UPRIGHT).all()


def test_metadata_that_expands_a_thousandfold_takes_no_memory():
    bomb = zlib.compress(bytes(2**28))
    chunks = (chunk(b"zTXt", b"%d\0\0" % n + bomb) for n in range(3))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)
    data = png(UPRIGHT, 8, before=b"".join(chunks) + xmp)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (decode(data) == UPRIGHT).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 2**14


@pytest.mark.parametrize(
    "kind, content",
    [
        *((b"sRGB", b""), (b"gAMA", b""), (b"cHRM", b"\1"), (b"pHYs", b"\1"), (b"iCCP", b"\0")),
        *((b"acTL", b""), (b"fcTL", b""), (b"tEXt", b""), (b"zTXt", b"a"), (b"eXIf", b"damaged")),
        (b"zTXt", b"Raw profile type exif\0\0not compressed"),
        (b"tEXt", b"Raw profile type exif\0not hexadecimal"),
    ],
)
def test_damaged_metadata_of_a_png_does_not_affect_its_pixels(kind, content):
    for metadata in (chunk(kind, content), chunk(kind, content)[:-4] + b"\0\0\0\0"):
        assert (decode(png(UPRIGHT, 8, before=metadata)) == UPRIGHT).all()
        assert (decode(png(UPRIGHT, 8, after=metadata)) == UPRIGHT).all()


def test_a_png_that_ends_in_its_metadata_is_corrupt():
    data = png(UPRIGHT, 8, before=chunk(b"zTXt", b"prompt\0\0" + os.urandom(1000)))
    for length in (40, 100, data.index(b"IDAT") - 4, data.index(b"IDAT") + 4):
        with pytest.raises(CorruptImage, match=r"\S"):
            decode(data[:length])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_gray_png_is_scaled_to_8_bits(bits):
    white = 2**bits - 1
    samples = np.linspace(0, white, 9).astype(int)
    data = png(samples.astype(np.uint16 if bits == 16 else np.uint8)[None], bits)
    assert (decode(data)[0, :, 0] == np.rint(samples * (255 / white))).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_has_the_same_pixels_in_8_and_in_16_bits(channels):
    rng = np.random.RandomState(1)
    pixels = rng.randint(0, 256, (6, 9, channels)).astype(np.uint8)
    assert (decode(png(pixels, 8)) == decode(png(deeper(pixels, 16), 16))).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [False, True])
def test_only_the_transparent_color_of_a_png_is_white(bits, color):
    if color and bits < 8:
        pytest.skip("there are no such files")
    white = 2**bits - 1
    dtype = np.uint16 if bits == 16 else np.uint8
    gray = np.array([[0, white // 2, max(white // 2 - 1, 0), white]], dtype)
    samples = on_three_channels(gray) if color else gray
    for transparent in {0, int(gray[0, 1])}:
        value = struct.pack(">H", transparent) * (3 if color else 1)
        pixels = decode(png(samples, bits, chunk(b"tRNS", value)))[0, :, 0]
        expected = np.where(gray[0] == transparent, 255, decode(png(samples, bits))[0, :, 0])
        assert (pixels == expected).all()


@pytest.mark.parametrize("color", [False, True])
def test_a_png_with_a_transparent_color_is_turned_upright(color):
    pixels = UPRIGHT if color else UPRIGHT[..., 0]
    samples = deeper(stored(pixels, 6), 16)
    transparent = chunk(b"tRNS", struct.pack(">H", 1) * (3 if color else 1))
    tags = chunk(*ORIENTATION_CHUNKS["eXIf"])
    expected = UPRIGHT if color else on_three_channels(pixels)
    assert (decode(png(samples, 16, before=transparent + tags)) == expected).all()
