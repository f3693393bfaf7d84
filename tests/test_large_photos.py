"""data.transforms: photographs that are much larger than the input are averaged, not sampled."""

import io
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import large_photos
from dist_ft.data import decoding
from dist_ft.data.image import DecodedImage
from dist_ft.data.jpeg import JpegImage
from dist_ft.data.transforms import NUM_DRAWS, center_crop, random_crop_box, random_resized_crop

SIDE, RESIZE = 28, 32
SIGMA = 25.0  # of the camera's noise
ROUNDING = 1 / 12  # the variance of rounding to whole numbers

# Draws of a crop of the whole image, if that is square, which is not mirrored.
WHOLE = np.full(NUM_DRAWS, 0.5)
WHOLE[0] = np.nextafter(1, 0)


def photograph(height, width, sigma=SIGMA):
    """A smooth picture, with independent noise in each pixel."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    channels = 60 + 130 * x, 60 + 130 * y, 128 + 50 * np.sin(9 * x + 5 * y)
    noise = np.random.RandomState(0).standard_normal((height, width, 3)).astype(np.float32)
    return np.rint(np.stack(channels, axis=-1) + sigma * noise).clip(0, 255).astype(np.uint8)


def encoded(pixels, format, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def augmented(image, draws, side=SIDE):
    out = np.empty((side, side, 3), np.uint8)
    random_resized_crop(image, draws, out)
    return out


# (view, px to which it resizes)
VIEWS = [
    pytest.param(lambda pixels: center_crop(pixels, SIDE, RESIZE, False), RESIZE, id="test"),
    pytest.param(lambda pixels: center_crop(pixels, SIDE, RESIZE, True), RESIZE, id="keep_ratio"),
    pytest.param(lambda pixels: augmented(DecodedImage(pixels), WHOLE), SIDE, id="train"),
]


@pytest.mark.parametrize("factor", [2, 3, 8])
@pytest.mark.parametrize("view, side", VIEWS)
def test_a_photograph_is_shown_as_its_averaged_copy(view, side, factor):
    """The copy is twice as large as the view, so bilinear interpolation uses all of its pixels."""
    large = photograph(2 * side * factor, 2 * side * factor)
    blocks = large.reshape(2 * side, factor, 2 * side, factor, 3)
    copy = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    difference = view(large).astype(int) - view(copy)
    assert abs(difference).max() <= 1  # the copy is rounded, and then the views are


@pytest.mark.parametrize("length", [2 * RESIZE + 1, 200, 256, 501])
@pytest.mark.parametrize("view, side", VIEWS)
def test_the_noise_of_a_photograph_is_averaged(view, side, length):
    assert noise_variance(view, length, length) <= max_variance((length / side) ** 2)


def test_training_crops_of_pictures_of_food101s_size_are_bilinear():
    pixels = photograph(512, 399)
    for index in range(10):
        draws = np.random.RandomState(index).random_sample(NUM_DRAWS)
        draws[-1] = 0.9  # not mirrored
        left, top, w, h = random_crop_box(512, 399, draws[:-1].reshape(-1, 4))
        expected = cv2.resize(pixels[top : top + h, left : left + w], (224, 224))
        assert (augmented(DecodedImage(pixels), draws, 224) == expected).all()


@pytest.mark.parametrize("shape", [(900, 20), (20, 900), (64, 65)])
def test_a_panorama_is_averaged_along_its_longer_side(shape):
    def square(pixels):
        return center_crop(pixels, SIDE, RESIZE, keep_ratio=False)

    assert noise_variance(square, *shape) <= max_variance(max(shape) / RESIZE)


def noise_variance(view, height, width):
    """The variance of what noise of SIGMA changes in a view."""
    noisy, plain = (view(photograph(height, width, sigma)) for sigma in (SIGMA, 0))
    return (noisy.astype(float) - plain).var()


def max_variance(num_averaged):
    """Of n averaged pixels in the values of a view, five standard errors above the mean.

    An average that gives no pixel a weight above 1/n has at most 1/n of a pixel's variance.
    """
    sampling_error = 1 + 5 * np.sqrt(2 / (SIDE * SIDE * 3))
    return SIGMA**2 / num_averaged * sampling_error + 2 * ROUNDING


def test_training_crops_of_a_png_and_of_a_jpeg_agree():
    """Of a photograph that is to its crops what 4,000 x 3,000 px are to 224 px."""
    pixels = photograph(500, 375)
    png = decoding.open_image(encoded(pixels, "PNG", compress_level=1))
    jpeg = decoding.open_image(encoded(pixels, "JPEG", quality=95))
    assert isinstance(jpeg, JpegImage)  # is decoded at reduced size
    for index in range(20):
        draws = np.random.RandomState(index).random_sample(NUM_DRAWS)
        difference = augmented(png, draws).astype(int) - augmented(jpeg, draws)
        _, _, *size = random_crop_box(500, 375, draws[:-1].reshape(-1, 4))
        block = max(block for block in (1, 2, 4, 8) if block * SIDE <= min(size))
        # Both noises are averages of at least block x block px.
        assert difference.std() < np.sqrt(2) * SIGMA / block
        assert abs(difference.mean()) < 1


@pytest.mark.benchmarks
def test_the_benchmark_shows_accuracies_of_both_views(trained_run, tiny, monkeypatch, capsys):
    arguments = ["large_photos", str(trained_run), str(tiny), "--noise", "0", "40"]
    monkeypatch.setattr(sys, "argv", arguments)
    large_photos.main()
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [name.strip() for name, *_ in rows] == ["original", "8 x, noise 0", "8 x, noise 40"]
    assert all(0 <= float(accuracy) <= 1 for _, *accuracies in rows for accuracy in accuracies)
    assert rows[0][1] == rows[0][2]  # small pictures are not averaged
