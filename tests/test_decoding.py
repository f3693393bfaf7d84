"""data.decoding: every common format decodes to upright RGB; a damaged file is reported as such."""

import io
import resource
import struct
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from dist_ft.data.decoding import decode
from dist_ft.data.image import CorruptImage
from tests.conftest import run_command

EXIF_ORIENTATION = 0x112


def smooth(height=37, width=53):
    """Pixels that survive JPEG compression."""
    y, x = np.mgrid[:height, :width]
    channels = 4 * x, 6 * y, 255 - 2 * x - 2 * y
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


IMAGE = Image.fromarray(smooth())
GRAY = IMAGE.convert("L")


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def mean_error(pixels, expected):
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    return abs(pixels.astype(int) - expected).mean()


JPEG = encoded(IMAGE, "JPEG", quality=95)
COLOR = {
    "JPEG": JPEG,
    "progressive JPEG": encoded(IMAGE, "JPEG", quality=95, progressive=True),
    "JPEG without subsampling": encoded(IMAGE, "JPEG", quality=95, subsampling=0),
    "CMYK JPEG": encoded(IMAGE.convert("CMYK"), "JPEG", quality=95),
    "JPEG with Exif": encoded(IMAGE, "JPEG", quality=95, exif=exif(1)),
    "PNG": encoded(IMAGE, "PNG"),
    "RGBA PNG": encoded(IMAGE.convert("RGBA"), "PNG"),
    "WebP": encoded(IMAGE, "WEBP", quality=95),
    "lossless WebP": encoded(IMAGE, "WEBP", lossless=True),
    "BMP": encoded(IMAGE, "BMP"),
    "TIFF": encoded(IMAGE, "TIFF", compression="tiff_lzw"),
    "PPM": encoded(IMAGE, "PPM"),
    "animated WebP": encoded(
        IMAGE, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.invert(IMAGE)]
    ),
}
GRAYSCALE = {
    "gray JPEG": encoded(GRAY, "JPEG", quality=95),
    "gray PNG": encoded(GRAY, "PNG"),
    "gray PNG with alpha": encoded(GRAY.convert("LA"), "PNG"),
    "PGM": encoded(GRAY, "PPM"),
    "gray GIF": encoded(GRAY, "GIF"),
}


IMAGES = {**COLOR, **GRAYSCALE}


def expected_of(kind):
    return smooth() if kind in COLOR else np.asarray(GRAY.convert("RGB"))


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_all_formats_are_decoded_to_rgb(kind):
    pixels = decode(IMAGES[kind])
    assert mean_error(pixels, expected_of(kind)) < 4
    if kind in GRAYSCALE:
        assert (pixels == pixels[..., :1]).all()


def test_bilevel_images_and_palettes_are_resolved():
    bilevel, palette = GRAY.convert("1"), IMAGE.quantize(16)
    for image, image_format in ((bilevel, "PNG"), (palette, "PNG"), (palette, "GIF")):
        expected = np.asarray(image.convert("RGB"))
        assert (decode(encoded(image, image_format)) == expected).all()


def test_the_first_frame_of_an_animation_is_used():
    data = encoded(GRAY, "GIF", save_all=True, append_images=[ImageOps.invert(GRAY)])
    assert mean_error(decode(data), np.asarray(GRAY.convert("RGB"))) < 2


def test_transparent_pixels_are_blended_with_white():
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert (decode(encoded(half, "PNG")) == 127).all()
    gray = Image.new("LA", (4, 4), (10, 0))
    assert (decode(encoded(gray, "PNG")) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 1), 1)
    pixels = decode(encoded(palette, "PNG", transparency=0))
    assert list(pixels[1, 1]) == [200, 100, 50] and (pixels[0] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_exif_orientations_are_turned_upright(orientation):
    data = encoded(IMAGE, "PNG", exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert (decode(data) == expected).all()
    assert expected.shape[:2] == ((37, 53) if orientation < 5 else (53, 37))
    assert mean_error(decode(encoded(IMAGE, "WEBP", exif=exif(orientation))), expected) < 6


@pytest.mark.parametrize("kind", IMAGES)
def test_a_truncated_file_is_corrupt_or_complete(kind):
    data = IMAGES[kind]
    num_corrupt = 0
    for length in {*range(0, len(data), max(1, len(data) // 60)), 1, 2, 3, len(data) - 1}:
        try:
            pixels = decode(data[:length])
        except CorruptImage:
            num_corrupt += 1
        else:
            assert mean_error(pixels, expected_of(kind)) < 6  # not half gray
    assert num_corrupt >= 30


@pytest.mark.parametrize("kind", IMAGES)
def test_a_damaged_file_is_corrupt_or_gives_pixels(kind):
    rng = np.random.RandomState(0)
    for _ in range(60):
        data = np.frombuffer(IMAGES[kind], np.uint8).copy()
        positions = rng.randint(0, min(len(data), rng.choice([40, 400, 10**6])), 3)
        data[positions] = rng.randint(0, 256, 3)
        with suppress(CorruptImage):
            pixels = decode(data.tobytes())
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text\n" * 50,
        b"\xff\xd8\xff",
        b"\0" * 1000,
        b"\xff\xd8\xff\xe0\0\x10" + bytes(10_000),
        b"\xff\xd8" + b"\xff\xe0\0\0" * 1000,  # segments of length 0 lead nowhere
        b"\xff\xd8" + b"\xff" * 100_000,
    ],
    ids=lambda data: repr(data[:8]),
)
def test_data_that_is_not_an_image_is_corrupt(data):
    with pytest.raises(CorruptImage, match=r"\S"):
        decode(data)


def claiming(data, start, size_format, *size):
    """An encoded image whose header claims another size; `start` precedes its place."""
    place = data.index(start) + len(start)
    size = struct.pack(size_format, *size)
    claimed = data[:place] + size + data[place + len(size) :]
    if start == b"IHDR":
        header_end = place + 13
        checksum = struct.pack(">I", zlib.crc32(claimed[place - 4 : header_end]))
        claimed = claimed[:header_end] + checksum + claimed[header_end + 4 :]
    return claimed


@pytest.mark.parametrize(
    "data",
    [
        claiming(COLOR["PNG"], b"IHDR", ">II", 30_000, 30_000),
        claiming(COLOR["PNG"], b"IHDR", ">II", 9_500, 9_500),
        claiming(JPEG, b"\xff\xc0\0\x11\x08", ">HH", 30_000, 30_000),
    ],
    ids=["PNG beyond Pillow's limit", "PNG", "JPEG"],
)
def test_a_decompression_bomb_is_rejected_before_memory_is_allocated(data):
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptImage, match="pixels|px"):
        decode(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


@pytest.mark.parametrize("kind", ["PNG", "progressive JPEG"])
def test_half_a_file_is_corrupt_even_if_pillow_was_told_to_accept_it(kind, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as gluoncv's import does
    with pytest.raises(CorruptImage):
        decode(COLOR[kind][: len(COLOR[kind]) // 2])


def test_images_are_decoded_after_horovod_is_imported(tmp_path):
    """Horovod makes the symbols of libmxnet.so global, among them those of a libjpeg."""
    pytest.importorskip("horovod.mxnet")
    (tmp_path / "rotated.jpg").write_bytes(encoded(IMAGE, "JPEG", exif=exif(6)))
    (tmp_path / "image.webp").write_bytes(encoded(IMAGE, "WEBP"))
    program = (
        "from dist_ft.distributed import horovod_world\n"
        "assert horovod_world.horovod_build()\n"
        "from pathlib import Path\n"
        "from dist_ft.data.decoding import decode\n"
        "for name in ('rotated.jpg', 'image.webp'):\n"
        "    print(*decode(Path(name).read_bytes()).shape)\n"
    )
    done = run_command([sys.executable, "-c", program], 60, tmp_path)
    assert done.output == "53 37 3\n37 53 3\n"


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_the_orientation_is_used_even_if_the_exif_could_not_be_written_again(image_format):
    """Text where a number belongs; many cameras and programs write such Exif."""
    tags = exif(6)
    tags[0x10E] = "many words"  # ImageDescription
    data = encoded(IMAGE, image_format, exif=tags, quality=95)
    entry = struct.pack("<HH", 0x10E, 2) if b"II*\0" in data else struct.pack(">HH", 0x10E, 2)
    assert data.count(entry) == 1
    image_width = entry.replace(b"\x0e", b"\x00")  # a numeric tag
    assert mean_error(decode(data.replace(entry, image_width)), np.rot90(smooth(), 3)) < 6


def test_no_program_is_started_to_decode_an_image(tmp_path, monkeypatch):
    """Pillow would run Ghostscript for PostScript."""
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\necho started >> {tmp_path}/started\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    with pytest.raises(CorruptImage, match="not an image of a supported format"):
        decode(page)
    assert not (tmp_path / "started").exists()
