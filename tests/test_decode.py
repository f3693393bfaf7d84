"""data.image, the files: every kind that people have, upright; a broken one is said to be so."""

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from dist_ft.data import decoding
from dist_ft.data.decoding import CorruptImage

ORIENTATION = 0x112  # the Exif tag


def smooth(height=37, width=53):
    """A picture that a JPEG keeps."""
    y, x = np.mgrid[:height, :width]
    parts = 4 * x, 6 * y, 255 - 2 * x - 2 * y
    return np.stack(parts, axis=-1).clip(0, 255).astype(np.uint8)


PICTURE = Image.fromarray(smooth())
GREY = PICTURE.convert("L")


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def error(found, expected):
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    return abs(found.astype(int) - expected).mean()


KINDS = {
    "JPEG": encoded(PICTURE, "JPEG", quality=95),
    "progressive JPEG": encoded(PICTURE, "JPEG", quality=95, progressive=True),
    "JPEG without subsampling": encoded(PICTURE, "JPEG", quality=95, subsampling=0),
    "CMYK JPEG": encoded(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "JPEG with Exif": encoded(PICTURE, "JPEG", quality=95, exif=exif(1)),
    "PNG": encoded(PICTURE, "PNG"),
    "RGBA PNG": encoded(PICTURE.convert("RGBA"), "PNG"),
    "WebP": encoded(PICTURE, "WEBP", quality=95),
    "lossless WebP": encoded(PICTURE, "WEBP", lossless=True),
    "BMP": encoded(PICTURE, "BMP"),
    "TIFF": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "PPM": encoded(PICTURE, "PPM"),
    "animated WebP": encoded(
        PICTURE, "WEBP", lossless=True, save_all=True, append_images=[ImageOps.invert(PICTURE)]
    ),
}
GREYS = {
    "grey JPEG": encoded(GREY, "JPEG", quality=95),
    "grey PNG": encoded(GREY, "PNG"),
    "grey PNG with alpha": encoded(GREY.convert("LA"), "PNG"),
    "PGM": encoded(GREY, "PPM"),
    "grey GIF": encoded(GREY, "GIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_colour_picture_of_any_kind_is_read(kind, tmp_path):
    (tmp_path / "picture").write_bytes(KINDS[kind])
    assert error(decoding.decode_file(tmp_path / "picture"), smooth()) < 4


@pytest.mark.parametrize("kind", GREYS)
def test_a_grey_picture_of_any_kind_has_three_equal_channels(kind):
    pixels = decoding.decode(GREYS[kind])
    assert error(pixels, np.asarray(GREY.convert("RGB"))) < 2
    assert (pixels == pixels[..., :1]).all()


def test_bilevel_pictures_are_black_and_white():
    pixels = decoding.decode(encoded(GREY.convert("1"), "PNG"))
    assert set(np.unique(pixels)) == {0, 255}


def test_a_palette_gives_its_colours():
    palette = PICTURE.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert (decoding.decode(encoded(palette, "PNG")) == expected).all()
    assert (decoding.decode(encoded(palette, "GIF")) == expected).all()


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("P", (8, 8), colour) for colour in (1, 2)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decoding.decode(data) == (255, 0, 0)).all()


def test_what_is_transparent_is_laid_on_white():
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)
    assert (decoding.decode(encoded(clear, "PNG")) == 255).all()
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert (decoding.decode(encoded(half, "PNG")) == 127).all()
    grey = Image.new("LA", (4, 4), (10, 0))
    assert (decoding.decode(encoded(grey, "PNG")) == 255).all()


def test_a_transparent_palette_entry_is_laid_on_white():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 1), 1)
    pixels = decoding.decode(encoded(palette, "PNG", transparency=0))
    assert list(pixels[1, 1]) == [200, 100, 50]
    assert (pixels[0] == 255).all()


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped():
    deep = (np.asarray(GREY).astype(np.uint32) * 257).astype(np.uint16)
    pixels = decoding.decode(encoded(Image.fromarray(deep), "PNG"))
    assert error(pixels, np.asarray(GREY.convert("RGB"))) <= 1


def test_values_beyond_sixteen_bits_are_white_and_negative_ones_black():
    values = Image.fromarray(np.array([[-5, 0, 65535, 100_000]], np.int32))
    assert decoding.decode(encoded(values, "TIFF"))[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_come_upright(orientation):
    data = encoded(PICTURE, "PNG", exif=exif(orientation))
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert (decoding.decode(data) == expected).all()
    assert expected.shape[:2] == ((37, 53) if orientation < 5 else (53, 37))
    jpeg = encoded(PICTURE, "JPEG", quality=95, exif=exif(orientation))
    assert error(decoding.decode(jpeg), expected) < 4
    assert error(decoding.decode(encoded(PICTURE, "WEBP", exif=exif(orientation))), expected) < 6


@pytest.mark.parametrize("kind", [*KINDS, *GREYS])
def test_a_file_cut_anywhere_gives_pixels_or_corrupt_image(kind, tmp_path):
    data = {**KINDS, **GREYS}[kind]
    expected = smooth() if kind in KINDS else np.asarray(GREY.convert("RGB"))
    corrupt = 0
    for length in {*range(0, len(data), max(1, len(data) // 60)), 1, 2, 3, len(data) - 1}:
        (tmp_path / "cut").write_bytes(data[:length])
        try:
            pixels = decoding.decode_file(tmp_path / "cut")
        except CorruptImage as reason:
            assert str(reason).startswith(f"{tmp_path / 'cut'}: ")
            corrupt += 1
        else:
            assert error(pixels, expected) < 6  # no half-grey picture
    assert corrupt >= 30


@pytest.mark.parametrize("kind", [*KINDS, *GREYS])
def test_a_file_with_wrong_bytes_gives_pixels_or_corrupt_image(kind, tmp_path):
    whole = {**KINDS, **GREYS}[kind]
    chance = np.random.RandomState(0)
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        places = chance.randint(0, min(len(data), chance.choice([40, 400, 10**6])), 3)
        data[places] = chance.randint(0, 256, 3)
        (tmp_path / "wrong").write_bytes(data.tobytes())
        try:
            pixels = decoding.decode_file(tmp_path / "wrong")
        except CorruptImage:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize("content", [b"", b"just words\n" * 50, b"\xff\xd8\xff", b"\0" * 1000])
def test_a_file_that_is_no_image_is_named(content, tmp_path):
    (tmp_path / "words.jpg").write_bytes(content)
    with pytest.raises(CorruptImage, match=r"words\.jpg: \S+"):
        decoding.decode_file(tmp_path / "words.jpg")


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(CorruptImage, match=str(path)):
            decoding.decode_file(path)


def png_claiming(width, height):
    """A PNG whose header promises more than its few bytes of zeros hold."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10**6)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg_claiming(width, height):
    data = bytearray(KINDS["JPEG"])
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [png_claiming(30_000, 30_000), png_claiming(9_500, 9_500), jpeg_claiming(30_000, 30_000)],
)
def test_a_decompression_bomb_is_refused_before_memory_is_taken(data, tmp_path):
    (tmp_path / "bomb.png").write_bytes(data)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptImage, match=r"bomb\.png: .*(pixels|px)"):
        decoding.decode_file(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


@pytest.mark.parametrize("kind", ["PNG", "progressive JPEG"])
def test_half_a_file_is_corrupt_whatever_another_library_has_told_pillow(
    kind, tmp_path, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as gluoncv's import does
    (tmp_path / "half").write_bytes(KINDS[kind][: len(KINDS[kind]) // 2])
    with pytest.raises(CorruptImage, match="half"):
        decoding.decode_file(tmp_path / "half")


COMMENT, PROFILE = b"\xff\xfe\x00\x06cat!", b"\xff\xe2\x00\x04\x00\x00"


@pytest.mark.parametrize("before", [b"", COMMENT, PROFILE * 300], ids=len)
def test_a_rotation_is_found_behind_any_segments(before):
    jpeg = encoded(PICTURE, "JPEG", quality=95, exif=exif(6))
    pixels = decoding.decode(jpeg[:2] + before + jpeg[2:])
    assert error(pixels, np.rot90(smooth(), 3)) < 4


def test_the_word_exif_among_a_jpegs_pixels_is_no_rotation():
    jpeg = encoded(PICTURE, "JPEG", quality=95)
    scan = jpeg.index(b"\xff\xda")
    assert isinstance(decoding.open_image(jpeg), decoding.JpegImage)
    with_word = jpeg[: scan + 40] + b"Exif\0\0" + jpeg[scan + 46 :]
    assert isinstance(decoding.open_image(with_word), decoding.JpegImage)


def test_a_camera_held_upright_costs_no_more_than_none():
    assert isinstance(
        decoding.open_image(encoded(PICTURE, "JPEG", exif=exif(1))), decoding.JpegImage
    )
    for orientation in range(2, 9):
        jpeg = encoded(PICTURE, "JPEG", exif=exif(orientation))
        assert isinstance(decoding.open_image(jpeg), decoding.DecodedImage)


@pytest.mark.parametrize("content", [b"", b"MM", b"no TIFF at all", b"II*\0\xff\xff\xff\xff"])
def test_an_exif_segment_of_anything_leaves_the_pixels(content):
    jpeg = encoded(PICTURE, "JPEG", quality=95)
    segment = b"Exif\0\0" + content
    header = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big")
    assert error(decoding.decode(jpeg[:2] + header + segment + jpeg[2:]), smooth()) < 4


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_exif_that_cannot_be_written_anew_is_good_enough_to_turn_a_picture(kind):
    """Words where a number belongs: cameras and programs leave many such."""
    tags = exif(6)
    tags[0x10E] = "many words"  # a description
    data = encoded(PICTURE, kind, exif=tags, quality=95)
    entry = struct.pack("<HH", 0x10E, 2) if b"II*\0" in data else struct.pack(">HH", 0x10E, 2)
    assert data.count(entry) == 1
    width = entry.replace(b"\x0e", b"\x00")  # a tag of numbers
    assert error(decoding.decode(data.replace(entry, width)), np.rot90(smooth(), 3)) < 6


def test_a_rotation_is_found_in_adobes_words_and_behind_fill_bytes():
    jpeg = encoded(PICTURE, "JPEG", quality=95)
    words = b"http://ns.adobe.com/xap/1.0/\0" + b'<x tiff:Orientation="6"/>'
    segment = b"\xff\xe1" + (len(words) + 2).to_bytes(2, "big") + words
    assert error(decoding.decode(jpeg[:2] + segment + jpeg[2:]), np.rot90(smooth(), 3)) < 4
    turned = encoded(PICTURE, "JPEG", quality=95, exif=exif(6))
    place = turned.index(b"\xff\xe1")
    filled = turned[:place] + b"\xff" * 5 + turned[place:]
    assert error(decoding.decode(filled), np.rot90(smooth(), 3)) < 4


def test_millions_of_bytes_that_are_no_segment_take_no_time():
    started = time.process_time()
    with pytest.raises(CorruptImage):
        decoding.decode(b"\xff\xd8\xff\xe0\0\x10" + bytes(50_000_000))
    with pytest.raises(CorruptImage):
        decoding.decode(b"\xff\xd8" + b"\xff\xe0\0\0" * 1000)
    assert time.process_time() - started < 5


def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow has Ghostscript read PostScript, whatever the file is called."""
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\necho started >> {tmp_path}/started\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    with pytest.raises(CorruptImage, match="no image of a kind that is read"):
        decoding.decode(page)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "values, dtype, shown",
    [
        ([0, 0.5, 1], np.float32, [0, 127, 255]),
        ([0, 100, 200], np.float32, [0, 100, 200]),
        ([0, 257, 65535], np.uint16, [0, 1, 255]),
        ([0, 100, 255], np.uint16, [0, 0, 0]),  # a dark picture of 16 bits stays one
        ([0, 100, 255], np.int32, [0, 100, 255]),
    ],
)
def test_grey_numbers_of_any_kind_have_their_white(values, dtype, shown):
    data = encoded(Image.fromarray(np.array([values], dtype)), "TIFF")
    assert abs(decoding.decode(data)[0, :, 0].astype(int) - shown).max() <= 1
