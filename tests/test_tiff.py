"""data.tiff: orientation, depths and white levels of TIFFs."""

import struct

import numpy as np
import PIL
import pytest
from PIL import Image

from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from tests.image_bytes import (
    EXIF_ORIENTATION,
    FLOAT,
    INT,
    STORE,
    UINT,
    deeper,
    encoded,
    on_three_channels,
    stored,
    tiff,
)

UPRIGHT = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
PICTURE = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every value


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_is_turned_upright_once(orientation, compression):
    tags = {EXIF_ORIENTATION: orientation}
    data = encoded(
        Image.fromarray(stored(UPRIGHT, orientation)),
        "TIFF",
        compression=compression,
        tiffinfo=tags,
    )
    assert (decode(data) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_either_byte_order_is_turned_upright_once(orientation, order):
    pixels = stored(UPRIGHT, orientation)
    assert (decode(tiff(pixels, 8, 2, order, orientation=orientation)) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORE)
def test_the_first_page_of_a_tiff_is_turned_upright_once(orientation):
    other = Image.new("RGB", (3, 3))
    tags = {EXIF_ORIENTATION: orientation}
    data = encoded(
        Image.fromarray(stored(UPRIGHT, orientation)),
        "TIFF",
        tiffinfo=tags,
        save_all=True,
        append_images=[other],
    )
    assert (decode(data) == UPRIGHT).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_gray_tiff_has_the_same_pixels_in_8_and_in_more_bits(bits, white_is_zero, order):
    samples = 255 - PICTURE if white_is_zero else PICTURE
    photometric = 0 if white_is_zero else 1
    for data in (
        tiff(samples, 8, photometric, order),
        tiff(deeper(samples, bits), bits, photometric, order),
    ):
        assert (decode(data) == on_three_channels(PICTURE)).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_gray_tiff_of_fewer_bits_is_scaled_to_8(bits, white_is_zero, order):
    gray = np.arange(2**bits, dtype=np.uint8)[None]
    samples = gray[:, ::-1] if white_is_zero else gray
    data = tiff(samples, bits, 0 if white_is_zero else 1, order)
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
    pixels = stored(255 - gray, orientation)
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


@pytest.mark.parametrize("compression", [12345, 50001])  # the second one is WebP's
def test_a_tiff_of_unsupported_compression_is_rejected_with_the_reason(compression):
    data = tiff(PICTURE, 8)
    uncompressed = struct.pack("<HHIH", 259, 3, 1, 1)
    assert data.count(uncompressed) == 1
    data = data.replace(uncompressed, struct.pack("<HHIH", 259, 3, 1, compression))
    with pytest.raises(CorruptImage, match=f"compression {compression} is not supported: save"):
        decode(data)


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
