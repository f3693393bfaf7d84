"""data.pillow_reader: files of scanners, cameras and editors give the right pixels or a reason."""

import os
import resource
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from tests.image_bytes import chunk, encoded, png, tiff

EXIF_ORIENTATION = 0x112
UPRIGHT = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
STORE = {  # how a camera stores the upright pixels, for each orientation
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: np.rot90(pixels, -1),
}


def exif(orientation):
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def stored(orientation):
    return Image.fromarray(np.ascontiguousarray(STORE[orientation](UPRIGHT)))


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_is_turned_upright_once(orientation, compression):
    tags = {EXIF_ORIENTATION: orientation}
    data = encoded(stored(orientation), "TIFF", compression=compression, tiffinfo=tags)
    assert (decode(data) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_either_byte_order_is_turned_upright_once(orientation, order):
    pixels = np.asarray(stored(orientation))
    assert (decode(tiff(pixels, 8, 2, order, orientation=orientation)) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORE)
def test_the_first_page_of_a_tiff_is_turned_upright_once(orientation):
    other = Image.new("RGB", (3, 3))
    tags = {EXIF_ORIENTATION: orientation}
    data = encoded(stored(orientation), "TIFF", tiffinfo=tags, save_all=True, append_images=[other])
    assert (decode(data) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_a_lossless_image_with_exif_is_turned_upright_once(orientation, image_format):
    data = encoded(stored(orientation), image_format, exif=exif(orientation), lossless=True)
    assert (decode(data) == UPRIGHT).all()


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
    metadata, pixels = chunk(*ORIENTATION_CHUNKS[kind]), np.asarray(stored(6))
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
