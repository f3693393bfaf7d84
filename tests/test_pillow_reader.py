"""data.pillow_reader: files of scanners, cameras and editors give the right pixels or a reason."""

import os
import resource
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image, PngImagePlugin

from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from tests.image_bytes import FLOAT, INT, UINT, chunk, encoded, png, tiff

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


PICTURE = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every value


def deeper(pixels, bits):
    """The same picture with more bits per sample."""
    white = 2**bits - 1
    scaled = np.rint(pixels * (white / 255))
    return scaled.astype(np.uint16 if bits <= 16 else np.uint32)


def on_three_channels(gray):
    return np.repeat(gray[..., None], 3, axis=-1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_gray_tiff_has_the_same_pixels_in_8_and_in_more_bits(bits, white_is_zero, order):
    stored = 255 - PICTURE if white_is_zero else PICTURE
    photometric = 0 if white_is_zero else 1
    for data in (
        tiff(stored, 8, photometric, order),
        tiff(deeper(stored, bits), bits, photometric, order),
    ):
        assert (decode(data) == on_three_channels(PICTURE)).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_gray_tiff_of_fewer_bits_is_scaled_to_8(bits, white_is_zero, order):
    gray = np.arange(2**bits, dtype=np.uint8)[None]
    stored = gray[:, ::-1] if white_is_zero else gray
    data = tiff(stored, bits, 0 if white_is_zero else 1, order)
    assert (decode(data)[..., 0] == gray * (255 // (2**bits - 1))).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits, planar", [(10, False), (12, False), (16, False), (16, True)])
def test_a_color_tiff_has_the_same_pixels_in_8_and_in_more_bits(bits, planar, order):
    assert (decode(tiff(UPRIGHT, 8, 2, order, planar=planar)) == UPRIGHT).all()
    data = tiff(deeper(UPRIGHT, bits), bits, 2, order, planar=planar)
    assert (decode(data) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORE)
def test_a_tiff_that_only_opencv_reads_is_turned_upright_once(orientation):
    gray = UPRIGHT[..., 0]
    pixels = np.ascontiguousarray(STORE[orientation](255 - gray))
    data = tiff(deeper(pixels, 16), 16, 0, ">", orientation=orientation)
    assert (decode(data) == on_three_channels(gray)).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_white_of_a_floating_point_tiff_is_1(dtype, order):
    pixels = (PICTURE / 255).astype(dtype)
    bits = 8 * pixels.itemsize
    data = tiff(pixels, bits, 1, order, FLOAT)
    assert (decode(data) == on_three_channels(PICTURE)).all()
    data = tiff(1 - pixels, bits, 0, order, FLOAT)
    assert (decode(data) == on_three_channels(PICTURE)).all()
    color = (UPRIGHT / 255).astype(dtype)
    assert (decode(tiff(color, bits, 2, order, FLOAT)) == UPRIGHT).all()


@pytest.mark.parametrize(
    "data, reason",
    [
        (tiff(np.float32([[0, 100, 255]]), 32, 1, "<", FLOAT), "from 0 to 255, but .* white is 1"),
        (tiff(np.float32([[-1, 0.5]]), 32, 1, "<", FLOAT), "from -1 to 0.5, but black is 0"),
        (tiff(np.float32([[np.nan, 0.5]]), 32, 1, "<", FLOAT), "from nan"),
        (tiff(np.int32([[0, 100, 255]]), 32, 1, "<", INT), "1 x 32-bit signed samples"),
        (tiff(np.int16([[-5, 100, 255]]), 16, 1, ">", INT), "1 x 16-bit signed samples"),
        (tiff(np.int8([[-5, 100]]), 8, 1, "<", INT), "1 x 8-bit signed samples"),
        (tiff(np.uint32([[0, 100, 255]]), 32, 1, "<"), "1 x 32-bit unsigned samples"),
        (tiff(np.uint32([[0, 100, 255]]), 32, 1, ">"), "1 x 32-bit unsigned samples"),
        (tiff(np.uint16([[[0, 9]]]), 16, 1, "<", UINT, [2]), "2 x 16-bit unsigned samples"),
        (tiff(deeper(UPRIGHT, 12), 12, 2, "<", planar=True), "3 x 12-bit unsigned samples"),
    ],
)
def test_a_tiff_whose_white_is_not_defined_is_rejected_with_the_remedy(data, reason):
    with pytest.raises(CorruptImage, match=f"{reason}.*save.* with 8 or 16 bits per sample"):
        decode(data)


def test_a_tiff_of_unknown_compression_is_rejected_with_the_reason():
    data = tiff(PICTURE, 8)
    compression = struct.pack("<HHIH", 259, 3, 1, 1)
    unknown = data.replace(compression, struct.pack("<HHIH", 259, 3, 1, 12345))
    assert unknown != data
    with pytest.raises(CorruptImage, match="compression 12345 is not supported"):
        decode(unknown)


@pytest.mark.parametrize("photometric, order", [(1, "<"), (0, "<"), (1, ">"), (0, ">")])
def test_a_truncated_16_bit_tiff_is_corrupt(photometric, order):
    pixels = np.random.RandomState(0).randint(0, 2**16, (40, 50)).astype(np.uint16)
    data = tiff(pixels, 16, photometric, order)
    for length in (4, 8, 20, 2000, len(data) - 100, len(data) - 20):
        with pytest.raises(CorruptImage, match=r"\S"):
            decode(data[:length])


@pytest.mark.parametrize("width, height", [(30_000, 30_000), (9_500, 9_500)])
@pytest.mark.parametrize("photometric, order", [(1, "<"), (0, ">")])
def test_a_16_bit_tiff_is_not_larger_than_the_limit(photometric, order, width, height):
    data = tiff(deeper(PICTURE, 16), 16, photometric, order)
    for tag, claimed in ((256, width), (257, height)):
        entry = struct.pack(f"{order}HHII", tag, 4, 1, 16)
        assert data.count(entry) == 1
        data = data.replace(entry, struct.pack(f"{order}HHII", tag, 4, 1, claimed))
    with pytest.raises(CorruptImage, match=r"px, more than|exceeds limit"):
        decode(data)


@pytest.mark.parametrize("maxval", [1, 15, 100, 255, 256, 1000, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("plain", [False, True])
def test_the_white_of_a_portable_anymap_is_its_maximum(maxval, channels, plain):
    values = np.linspace(0, maxval, 60).astype(int)
    magic = {1: ("5", "2"), 3: ("6", "3")}[channels][plain]
    header = f"P{magic} {60 // channels} 1 {maxval}\n".encode()
    packed = " ".join(map(str, values)).encode()
    if not plain:
        packed = values.astype(">u1" if maxval < 256 else ">u2").tobytes()
    pixels = decode(header + packed)[0, :, :channels].ravel()
    # Pillow rounds color samples to 8 bits; those of 16 bits it rounds before to_8_bits does.
    assert abs(pixels - values * (255 / maxval)).max() <= 0.5 + 0.5 * 255 / 65535


def test_a_dark_pgm_of_16_bits_stays_dark():
    values = np.array([0, 100, 255], ">u2")
    assert (decode(b"P5 3 1 65535\n" + values.tobytes())[0, :, 0] == [0, 0, 1]).all()


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
    stored = deeper(np.ascontiguousarray(STORE[6](pixels)), 16)
    transparent = chunk(b"tRNS", struct.pack(">H", 1) * (3 if color else 1))
    tags = chunk(*ORIENTATION_CHUNKS["eXIf"])
    expected = UPRIGHT if color else on_three_channels(pixels)
    assert (decode(png(stored, 16, before=transparent + tags)) == expected).all()


def test_premultiplied_gray_is_blended_with_white():
    samples = np.uint8([[[64, 128], [0, 0], [7, 255]]])
    if tuple(map(int, PIL.__version__.split(".")[:1])) < (11,):
        pytest.skip("Pillow reads such files since version 11")
    assert abs(decode(tiff(samples, 8, 1, extra_samples=[1]))[0, :, 0] - [191, 255, 7.0]).max() <= 1


def test_cmyk_has_the_same_pixels_in_8_and_in_16_bits():
    inks = np.random.RandomState(2).randint(0, 256, (5, 6, 4)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    assert (decode(tiff(inks, 8, 5)) == expected).all()
    assert (decode(tiff(deeper(inks, 16), 16, 5)) == expected).all()
