"""data.heif: photos as phones store them are read, or the error names what is missing."""

import sys

import numpy as np
import pytest
from PIL import Image

from dist_ft.data import heif
from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from tests.image_bytes import STORE, encoded, exif, stored

Y, X = np.mgrid[:37, :53]
UPRIGHT = np.stack([4 * X, 6 * Y, 255 - 2 * X - 2 * Y], axis=-1).clip(0, 255).astype(np.uint8)
HEIC_START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF_START = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"


def encode(image, image_format, orientation=1):
    if image_format == "HEIF" or sys.version_info < (3, 9):
        pytest.importorskip("pillow_heif")
    heif.load_reader(image_format)  # which can also write
    return encoded(image, image_format, quality=95, exif=exif(orientation).tobytes())


def mean_error(pixels, expected):
    assert pixels.shape == expected.shape
    return abs(pixels.astype(int) - expected).mean()


@pytest.mark.parametrize("orientation", STORE)
@pytest.mark.parametrize("image_format", ["HEIF", "AVIF"])
def test_a_photo_of_a_phone_is_turned_upright_once(image_format, orientation):
    if image_format == "AVIF" and not heif._has_avif():
        pytest.skip("pillow-heif reads the orientation of an AVIF, but does not write it")
    image = Image.fromarray(stored(UPRIGHT, orientation))
    data = encode(image, image_format, orientation)
    assert mean_error(decode(data), UPRIGHT) < 4  # of the lossy compression


@pytest.mark.parametrize("image_format", ["HEIF", "AVIF"])
def test_gray_and_transparent_photos_are_read(image_format):
    gray = Image.fromarray(UPRIGHT).convert("L")
    expected = np.asarray(gray.convert("RGB"))
    assert mean_error(decode(encode(gray, image_format)), expected) < 4
    image = Image.fromarray(UPRIGHT)
    image.putalpha(Image.fromarray(np.where(X < 20, 0, 255).astype(np.uint8)))
    pixels = decode(encode(image, image_format))
    assert (pixels[:, :16] == 255).all()
    assert mean_error(pixels[:, 24:], UPRIGHT[:, 24:]) < 4


@pytest.mark.parametrize("image_format", ["HEIF", "AVIF"])
def test_a_truncated_photo_is_corrupt(image_format):
    data = encode(Image.fromarray(UPRIGHT), image_format)
    for length in (4, 20, 60, len(data) // 2, len(data) - 50, len(data) - 1):
        with pytest.raises(CorruptImage, match=r"\S"):
            decode(data[:length])


@pytest.mark.parametrize("image_format", ["HEIF", "AVIF"])
def test_the_size_of_a_photo_is_limited(image_format, monkeypatch):
    data = encode(Image.fromarray(UPRIGHT), image_format)
    monkeypatch.setattr("dist_ft.data.image.MAX_PIXELS", UPRIGHT[..., 0].size - 1)
    with pytest.raises(CorruptImage, match="53 x 37 px, more than the limit"):
        decode(data)


def test_a_format_is_recognized_by_any_brand():
    assert heif.format_of(HEIC_START) == "HEIF"
    assert heif.format_of(AVIF_START) == "AVIF"
    assert heif.format_of(b"\0\0\0\x14ftypisom\0\0\0\0mp41") is None
    assert heif.format_of(b"\0\0\0\x14ftypqt  \0\0\0\0qt  heicavif") is None  # after the box
    assert heif.format_of(b"") is None


def test_a_video_is_not_an_image_of_a_supported_format():
    with pytest.raises(CorruptImage, match=r"supported format \(JPEG, .*, AVIF, HEIF\)"):
        decode(b"\0\0\0\x14ftypisom\0\0\0\0mp41" + bytes(100))


@pytest.fixture
def without_readers(monkeypatch):
    for name in ("pillow_heif", "PIL.AvifImagePlugin"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("PIL.AvifImagePlugin", raising=False)
    for cached in (heif._has_avif, heif._plugin_formats):
        cached.cache_clear()
    yield
    for cached in (heif._has_avif, heif._plugin_formats):
        cached.cache_clear()


@pytest.mark.parametrize("data, name", [(HEIC_START, "HEIF"), (AVIF_START, "AVIF")])
def test_a_photo_that_cannot_be_read_is_rejected_with_the_remedy(data, name, without_readers):
    with pytest.raises(CorruptImage, match=rf"{name} needs .* pip install 'dist-ft\[heif\]'"):
        decode(data + bytes(100))
