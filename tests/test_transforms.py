"""data.transforms: crops stay inside the image, and test crops are byte-identical to MXNet's."""

import io
import random
import tracemalloc

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dist_ft.data import sampler
from dist_ft.data.decoding import open_image
from dist_ft.data.image import DecodedImage
from dist_ft.data.jpeg import JpegImage
from dist_ft.data.transforms import (
    AREA,
    MAX_RATIO,
    NUM_DRAWS,
    center_crop,
    random_crop_box,
    random_resized_crop,
)

RATIO = (3 / 4, 4 / 3)  # of the width to the height, as MXNet takes it
UNIT = st.floats(0, 1, exclude_max=True)
LENGTHS = st.one_of(st.integers(1, 12), st.integers(1, 3000))


def noise(height, width):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def draws_of(index):
    return sampler.image_draws(0, 0, index, NUM_DRAWS)


def crop_box(height, width, draws):
    return random_crop_box(height, width, np.array(draws).reshape(-1, 4))


def augmented(image, side, draws):
    out = np.empty((side, side, 3), np.uint8)
    random_resized_crop(image, draws, out)
    return out


def encoded(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@given(
    height=LENGTHS,
    width=LENGTHS,
    draws=st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=10),
)
@settings(max_examples=100, deadline=None)
def test_a_crop_is_inside_the_image(height, width, draws):
    largest = np.nextafter(1.0, 0.0)
    for last in (*draws, (0.3, 0.0, largest, largest), (0.3, largest, largest, largest)):
        left, top, w, h = crop_box(height, width, [*draws, last])
        assert 0 <= left < left + w <= width
        assert 0 <= top < top + h <= height


@given(height=st.integers(50, 900), width=st.integers(50, 900), index=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_area_and_ratio_of_a_crop_are_within_their_bounds(height, width, index):
    _, _, w, h = crop_box(height, width, draws_of(index)[:-1])
    # Sides are rounded to whole px.
    assert (w - 0.5) / (h + 0.5) <= RATIO[1]
    assert (w + 0.5) / (h - 0.5) >= RATIO[0]
    if max(height, width) / min(height, width) < RATIO[1]:  # else all attempts may fail
        assert (w + 0.5) * (h + 0.5) >= AREA[0] * height * width


def test_the_ratios_of_crops_are_those_of_the_original_recipe():
    assert (1 / MAX_RATIO, MAX_RATIO) == RATIO


def test_if_no_attempt_fits_the_largest_central_box_of_an_allowed_ratio_is_used():
    assert crop_box(100, 1000, [[0.999, 0.0, 0.5, 0.5]] * 10) == (433, 0, 133, 100)
    assert crop_box(1000, 90, [[0.999, 0.999, 0.5, 0.5]]) == (0, 440, 90, 120)
    assert crop_box(1, 1, []) == (0, 0, 1, 1)


def measures(boxes, height, width):
    """(4, n): share of the area, logarithm of the ratio, and relative center of each box."""
    left, top, w, h = np.array(boxes, float).T
    center_x, center_y = (left + w / 2) / width, (top + h / 2) / height
    return np.stack([w * h / (height * width), np.log(w / h), center_x, center_y])


def test_crops_are_distributed_like_those_of_mxnet():
    height, width, num = 60, 80, 800
    ours = [crop_box(height, width, draws_of(index)[:-1]) for index in range(num)]
    random.seed(0)
    blank = mx.nd.zeros((height, width, 3), dtype="uint8")
    theirs = [mx.image.random_size_crop(blank, (2, 2), AREA, RATIO)[1] for _ in range(num)]
    ours, theirs = measures(ours, height, width), measures(theirs, height, width)
    std = theirs.std(axis=1)
    # Five standard errors of the difference of two means, and of two standard deviations.
    assert (abs(ours.mean(axis=1) - theirs.mean(axis=1)) < 5 * std * np.sqrt(2 / num)).all()
    assert (abs(ours.std(axis=1) - std) < 5 * std * np.sqrt(1 / num)).all()


def test_the_last_draw_mirrors_half_of_the_images():
    image, draws = DecodedImage(noise(90, 70)), draws_of(3)
    draws[-1] = 0.5
    upright = augmented(image, 32, draws)
    draws[-1] = np.nextafter(0.5, 0)
    assert (augmented(image, 32, draws) == upright[:, ::-1]).all()
    assert (upright != upright[:, ::-1]).any()


def test_an_augmented_image_shows_its_box():
    """The pixels of the image are their own coordinates."""
    y, x = np.mgrid[:240, :250]
    image = DecodedImage(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))
    draws = draws_of(8)
    draws[-1] = 0.9
    left, top, w, h = crop_box(240, 250, draws[:-1])
    shown = augmented(image, 64, draws).astype(int)
    assert abs(shown[:, 0, 0] - left).max() <= w / 64 + 1
    assert abs(shown[:, -1, 0] - (left + w - 1)).max() <= w / 64 + 1
    assert abs(shown[0, :, 1] - top).max() <= h / 64 + 1
    assert abs(shown[-1, :, 1] - (top + h - 1)).max() <= h / 64 + 1


BILINEAR, AREA_BASED = 1, 3  # MXNet's numbers
SHAPES = [(300, 400), (400, 300), (64, 80), (512, 512), (512, 341), (100, 399), (1, 1), (225, 223)]
LARGE_SHAPES = [(513, 600), (1024, 768), (900, 2000)]
SHAPES_AND_METHODS = [(shape, BILINEAR) for shape in SHAPES]
SHAPES_AND_METHODS += [(shape, AREA_BASED) for shape in LARGE_SHAPES]


@pytest.mark.parametrize("keep_ratio", [False, True])
@pytest.mark.parametrize("shape, method", SHAPES_AND_METHODS)
def test_the_test_crop_is_byte_identical_to_mxnets(shape, method, keep_ratio):
    """Of a square, or with keep_ratio of a resized shorter side; large images are averaged."""
    pixels, height, width = noise(*shape), 256, 256
    if keep_ratio:
        height, width = (round(length * 256 / min(shape)) for length in shape)
    theirs = mx.image.imresize(mx.nd.array(pixels, dtype="uint8"), width, height, method)
    theirs = mx.image.center_crop(theirs, (224, 224))[0].asnumpy()
    assert (center_crop(pixels, 224, 256, keep_ratio) == theirs).all()


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    side=st.integers(8, 64),
    larger=st.integers(0, 16),
    keep_ratio=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_image_gets_the_shape_of_the_input_and_is_not_modified(
    height, width, side, larger, keep_ratio
):
    pixels = noise(height, width)
    tested = center_crop(pixels, side, side + larger, keep_ratio)
    trained = augmented(DecodedImage(pixels), side, draws_of(height))
    assert tested.shape == trained.shape == (side, side, 3)
    assert tested.dtype == np.uint8
    assert (pixels == noise(height, width)).all()


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (2, 40_000)])
def test_a_very_long_image_does_not_fill_the_memory(shape):
    """With its shorter side resized to 256 px, the longer one would have five million."""
    pixels = np.full((*shape, 3), 7, np.uint8)
    middle = tuple(slice(max(0, length // 2 - 2), length // 2 + 2) for length in shape)
    pixels[middle] = 200
    tracemalloc.start()
    shown = center_crop(pixels, 224, 256, keep_ratio=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown.nbytes < peak < 20e6
    assert shown.shape == (224, 224, 3)
    assert (shown[110:114, 110:114] == 200).all()


def smooth(height, width):
    """Pixels that survive JPEG compression, with a color of its own at each place."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    channels = 40 + 170 * x, 40 + 170 * y, 128 + 60 * np.sin(9 * x + 5 * y)
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("subsampling", [0, 2], ids=["4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(90, 70), (301, 403), (1600, 1200)])
def test_a_jpeg_is_augmented_like_its_pixels(size, subsampling):
    """Decoding at reduced size changes no more than another interpolation would."""
    jpeg = open_image(encoded(smooth(*size), quality=97, subsampling=subsampling))
    assert isinstance(jpeg, JpegImage)
    pixels = DecodedImage(jpeg.pixels())
    for index in range(4):
        shown, expected = (augmented(image, 64, draws_of(index)) for image in (jpeg, pixels))
        difference = abs(shown.astype(int) - expected)
        assert difference.mean() < 1.5
        assert difference.max() <= 12


def test_a_large_crop_is_decoded_at_reduced_size_but_not_below_the_input():
    jpeg = open_image(encoded(smooth(1600, 1200)))
    for side, shrink in ((1200, 1), (601, 1), (600, 2), (300, 4), (150, 8), (8, 8)):
        shown = jpeg.crop((0, 0, 1200, 1600), side)
        assert shown.shape == (1600 // shrink, 1200 // shrink, 3)
        assert min(shown.shape[:2]) >= side


@given(
    height=st.integers(1, 700), width=st.integers(1, 700), side=st.integers(1, 90), data=st.data()
)
@settings(max_examples=60, deadline=None)
def test_a_crop_of_a_jpeg_is_never_empty(height, width, side, data):
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))
    jpeg = open_image(encoded(np.zeros((height, width, 3), np.uint8)))
    shown = jpeg.crop((left, top, w, h), side)
    assert min(shown.shape[:2]) >= min(side, w, h)
