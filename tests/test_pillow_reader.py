"""data.pillow_reader: orientation and white levels of other formats."""

import numpy as np
import pytest
from PIL import Image

from dist_ft.data.decoding import decode
from tests.image_bytes import STORE, encoded, exif, stored

UPRIGHT = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_a_lossless_image_with_exif_is_turned_upright_once(orientation, image_format):
    data = encoded(
        Image.fromarray(stored(UPRIGHT, orientation)),
        image_format,
        exif=exif(orientation),
        lossless=True,
    )
    assert (decode(data) == UPRIGHT).all()


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
