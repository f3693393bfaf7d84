"""data.jpeg: a JPEG is turned upright as Pillow does it, and libjpeg-turbo decodes every kind."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from dist_ft.data import orientation
from dist_ft.data.decoding import decode, open_image
from dist_ft.data.image import DecodedImage
from dist_ft.data.jpeg import JpegImage
from dist_ft.data.transforms import NUM_DRAWS, random_crop_box, random_resized_crop
from tests.image_bytes import encoded

EXIF_ORIENTATION = 0x112
SHORT, ASCII = 3, 2
MAKER = 0x10F, ASCII, b"camera\0"
HEIGHT, WIDTH = 48, 80  # multiples of 16, so that a picture decoded at 1/8 has no partial pixel
PICTURE = Image.fromarray(
    np.random.RandomState(0).randint(0, 256, (6, 10, 3)).astype(np.uint8)
).resize((WIDTH, HEIGHT), Image.BICUBIC)
JPEG = encoded(PICTURE, "JPEG", quality=95)
ORDERS = {"little-endian": "<", "big-endian": ">"}
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
KINDS = {
    "baseline": JPEG,
    "progressive": encoded(PICTURE, "JPEG", progressive=True),
    "gray": encoded(PICTURE.convert("L"), "JPEG"),
    "4:4:4": encoded(PICTURE, "JPEG", subsampling=0),
}


def tiff_tags(order, *tags):
    """The TIFF file of an Exif segment, with tags of (number, type, value)."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entries, values = b"", b""
    start = 8 + 2 + 12 * len(tags) + 4
    for number, kind, value in tags:
        count = len(value) if kind == ASCII else 1
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = struct.pack(f"{order}I", start + len(values))
            values += value
        entries += struct.pack(f"{order}HHI", number, kind, count) + place
    head = magic + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + values


def exif(value, order="<"):
    return EXIF + tiff_tags(
        order, MAKER, (EXIF_ORIENTATION, SHORT, struct.pack(f"{order}H", value))
    )


def xmp(value):
    return XMP + b'<rdf:Description tiff:Orientation="%d"/>' % value


WITHOUT_ORIENTATION = EXIF + tiff_tags("<", MAKER)


def app1(content):
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


def with_metadata(jpeg, *contents):
    return jpeg[:2] + b"".join(map(app1, contents)) + jpeg[2:]


def by_pillow(jpeg):
    """The upright pixels: those of Pillow's exif_transpose."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def turned(pixels, value):
    """The upright pixels by Pillow, of a picture without loss."""
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = value
    return by_pillow(encoded(Image.fromarray(pixels), "PNG", exif=tags))


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_orientation_is_turned_upright_on_the_fast_path(kind, order, value):
    image = open_image(with_metadata(KINDS[kind], exif(value, order)))
    assert isinstance(image, JpegImage)
    expected = turned(decode(KINDS[kind]), value)
    assert (image.height, image.width) == expected.shape[:2]
    assert (image.pixels() == expected).all()


@pytest.mark.parametrize("value", range(1, 9))
def test_the_first_picture_of_an_mpo_file_is_turned_upright(value):
    second = ImageOps.invert(PICTURE)
    data = encoded(
        PICTURE, "MPO", quality=95, exif=exif(value), save_all=True, append_images=[second]
    )
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    opened = open_image(data)
    assert isinstance(opened, JpegImage)
    assert (opened.pixels() == turned(decode(JPEG), value)).all()


def test_a_rotated_cmyk_jpeg_is_turned_upright():
    data = encoded(PICTURE.convert("CMYK"), "JPEG", exif=exif(6))
    image = open_image(data)
    assert isinstance(image, DecodedImage)
    assert (image.pixels() == by_pillow(data)).all()


METADATA = {
    "XMP": [xmp(6)],
    "XMP element": [XMP + b"<tiff:Orientation>8</tiff:Orientation>"],
    "XMP of two digits": [XMP + b'<x tiff:Orientation="10"/>'],
    "XMP without a value": [XMP + b"<x tiff:Orientation/>"],
    "XMP after Exif without orientation": [WITHOUT_ORIENTATION, xmp(6)],
    "XMP before Exif without orientation": [xmp(3), WITHOUT_ORIENTATION],
    "XMP and Exif that differ": [exif(8), xmp(6)],
    "XMP and an invalid value in Exif": [exif(0), xmp(6)],
    "two XMP segments": [xmp(6), xmp(3)],
    "XMP under another name": [b'http://example.com/\0<x tiff:Orientation="6"/>'],
    "Exif without orientation": [WITHOUT_ORIENTATION],
    "Exif in two segments": [exif(6)[:30], EXIF + exif(6)[30:]],
    "two Exif segments": [exif(6), exif(3)],
    "Exif's name twice": [EXIF + exif(6)],
    "Exif in another place": [b"ICC_PROFILE\0" + exif(6)],
    "orientation twice": [
        EXIF + tiff_tags("<", *((EXIF_ORIENTATION, SHORT, bytes([value, 0])) for value in (6, 8)))
    ],
    "orientation of type LONG": [
        EXIF + tiff_tags(">", (EXIF_ORIENTATION, 4, struct.pack(">I", 6)))
    ],
    "orientation as text": [EXIF + tiff_tags("<", (EXIF_ORIENTATION, ASCII, b"6\0"))],
    "BigTIFF's magic number": [EXIF + b"II+\0" + tiff_tags("<", MAKER)[4:]],
    "mixed magic number": [EXIF + b"MM*\0" + exif(6, ">")[10:]],
    "empty Exif": [EXIF],
    "not TIFF": [EXIF + b"not TIFF at all"],
    "a directory beyond the end": [EXIF + b"II*\0\xff\xff\xff\xff"],
    "a value of the wrong type": [
        EXIF
        + tiff_tags("<", (0x100, ASCII, b"many words\0"), (EXIF_ORIENTATION, SHORT, bytes([6, 0])))
    ],
}


@pytest.mark.parametrize("kind", METADATA)
def test_pillow_decides_about_unusual_metadata(kind):
    data = with_metadata(JPEG, *METADATA[kind])
    assert isinstance(open_image(data), JpegImage)
    with Image.open(io.BytesIO(data)) as image:
        value = value_by_pillow(image)
    assert (decode(data) == turned(decode(JPEG), value if value in range(9) else 1)).all()


def value_by_pillow(image):
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises errors of many types for damaged Exif
        return 1


@pytest.mark.filterwarnings("ignore")  # Pillow's, about the damage
def test_damaged_metadata_is_understood_as_by_pillow():
    rng = np.random.RandomState(0)
    metadata = exif(6), exif(3, ">"), exif(8) + exif(5), EXIF + tiff_tags("<", *[MAKER] * 3)
    found = set()
    for number in range(600):
        content = bytearray(metadata[number % len(metadata)])
        for place in rng.randint(0, len(content), rng.randint(1, 4)):
            content[place] = rng.choice([0, 1, 2, 3, 6, 8, 18, 255, rng.randint(256)])
        data = with_metadata(JPEG, bytes(content[: rng.randint(1, 2 * len(content))]), xmp(5))
        with Image.open(io.BytesIO(data)) as image:
            value = value_by_pillow(image)
        expected = orientation.BY_EXIF_VALUE.get(value, orientation.UPRIGHT)
        assert orientation.orientation_of(data) == expected, bytes(content)
        found.add(expected)
    assert len(found) >= 4


COMMENT, PROFILE = b"\xff\xfe\x00\x06cat!", b"\xff\xe2\x00\x04\x00\x00"
FILL_BYTES = b"\xff" * 5


@pytest.mark.parametrize("before", [b"", COMMENT, PROFILE * 300, FILL_BYTES], ids=len)
def test_the_orientation_is_found_after_any_segments(before):
    data = JPEG[:2] + before + app1(exif(6)) + JPEG[2:]
    assert (decode(data) == turned(decode(JPEG), 6)).all()


def test_the_orientation_is_found_after_the_size_and_not_in_the_pixels():
    start = JPEG.index(b"\xff\xda")
    before_scan = JPEG[:start] + app1(exif(6)) + JPEG[start:]
    assert (decode(before_scan) == turned(decode(JPEG), 6)).all()
    in_scan = JPEG[: start + 40] + app1(exif(6)) + JPEG[start + 40 :]
    assert orientation.orientation_of(in_scan) == orientation.UPRIGHT


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shrink", [1, 2, 8])
def test_a_crop_of_a_rotated_jpeg_is_the_crop_of_the_upright_one(kind, value, shrink):
    """Sizes and boxes are multiples of the reduction, so no pixel is cut."""
    upright = open_image(KINDS[kind])
    everything = 0, 0, WIDTH, HEIGHT
    reduced = turned(upright.crop(everything, HEIGHT // shrink).copy(), value)
    image = open_image(with_metadata(KINDS[kind], exif(value)))
    for box in ((0, 0, 16, 24), (8, 16, 40, 24), (image.width - 24, image.height - 40, 24, 40)):
        left, top, width, height = (length // shrink for length in box)
        crop = image.crop(box, min(width, height))
        assert crop.dtype == np.uint8
        assert (crop == reduced[top : top + height, left : left + width]).all()


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("flip", [0.4, 0.6])
def test_an_augmented_rotated_jpeg_is_the_augmented_upright_one(value, flip):
    draws = np.linspace(0.05, 0.95, NUM_DRAWS)
    draws[-1] = flip
    image = open_image(with_metadata(JPEG, exif(value)))
    box = random_crop_box(image.height, image.width, draws[:-1].reshape(-1, 4))
    expected = cv2.resize(image.crop(box, 32), (32, 32), interpolation=cv2.INTER_LINEAR)
    if flip < 0.5:
        expected = expected[:, ::-1]
    augmented = np.empty((32, 32, 3), np.uint8)
    random_resized_crop(image, draws, augmented)
    # OpenCV rounds after it has interpolated rows, and again after columns.
    assert abs(augmented.astype(int) - expected).max() <= (1 if value >= 5 else 0)


@pytest.mark.parametrize("value", [6, 7])
def test_a_reduced_crop_of_any_box_differs_by_less_than_a_pixel(value):
    """The pixels of a picture decoded at 1/2 start at the stored corner, which may be cut."""
    y, x = np.mgrid[:151, :203]
    ramp = np.stack([x, y, x], axis=-1).astype(np.uint8)
    stored = encoded(Image.fromarray(ramp), "JPEG", quality=100, subsampling=0)
    image = open_image(with_metadata(stored, exif(value)))
    whole = image.pixels()
    for box in ((3, 5, 101, 97), (0, 0, 151, 203), (50, 101, 99, 102), (52, 3, 99, 199)):
        left, top, width, height = box
        crop = image.crop(box, 45)
        assert crop.shape[:2] == pytest.approx((height / 2, width / 2), abs=1)
        corners = whole[top : top + height, left : left + width][:: height - 1, :: width - 1]
        # A pixel of the crop is the mean of 2 x 2 px, at most 1.5 px away; 2 for the codec.
        difference = crop[:: len(crop) - 1, :: crop.shape[1] - 1] - corners.astype(int)
        assert abs(difference).max() <= 1.5 + 2


def test_a_buffer_of_a_larger_image_does_not_affect_the_next_crop():
    large = encoded(Image.new("RGB", (400, 300), "red"), "JPEG")
    for data in (large, JPEG, large, with_metadata(JPEG, exif(6)), JPEG):
        image = open_image(data)
        crop = image.crop((0, 0, image.width, image.height), 8 * image.width)
        # Chroma is repeated in a crop and interpolated in the whole picture.
        assert abs(crop.astype(int) - decode(data)).mean() < 8


def test_a_damaged_jpeg_that_pillow_decodes_is_turned_once():
    data = with_metadata(JPEG[:-2] + bytes(5) + JPEG[-2:], exif(6))
    expected = by_pillow(data)
    image = open_image(data)
    assert (image.pixels() == expected).all()
    assert (image.crop((2, 3, 20, 30), 10) == expected[3:33, 2:22]).all()
