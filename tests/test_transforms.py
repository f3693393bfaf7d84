"""data.view: crops inside the image, mirror images, MXNet's own test view."""

import io
import random
import tracemalloc

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dist_ft.data import sampler, transforms
from dist_ft.data.decoding import DecodedImage, JpegImage, open_image

UNIT = st.floats(0, 1, exclude_max=True)
SIDES = st.one_of(st.integers(1, 12), st.integers(1, 3000))


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def train_view(pixels, side, draws):
    out = np.empty((side, side, 3), np.uint8)
    transforms.random_resized_crop(DecodedImage(pixels), draws, out)
    return out


def draws_of(index):
    return sampler.image_draws(0, 0, index, transforms.NUM_DRAWS)


@given(
    height=SIDES,
    width=SIDES,
    draws=st.lists(st.tuples(UNIT, UNIT, UNIT, UNIT), max_size=10),
)
@settings(max_examples=200, deadline=None)
def test_a_crop_is_inside_the_image_whatever_its_size_and_the_draws(height, width, draws):
    left, top, w, h = transforms.random_crop_box(height, width, np.array(draws).reshape(-1, 4))
    assert 0 <= left <= left + w <= width
    assert 0 <= top <= top + h <= height
    assert w > 0 and h > 0


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
@settings(max_examples=100, deadline=None)
def test_the_largest_draws_are_inside_too(height, width):
    last = np.nextafter(1.0, 0.0)
    for ratio in (0.0, 0.5, last):
        left, top, w, h = transforms.random_crop_box(
            height, width, np.array([[0.3, ratio, last, last]])
        )
        assert left + w <= width and top + h <= height


@given(height=st.integers(50, 900), width=st.integers(50, 900), index=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_area_and_ratio_of_a_crop_are_within_their_bounds(height, width, index):
    _, _, w, h = transforms.random_crop_box(height, width, draws_of(index)[:-1].reshape(-1, 4))
    # A side is rounded to whole px: by half a px at most.
    assert (w - 0.5) / (h + 0.5) <= 4 / 3
    assert (w + 0.5) / (h - 0.5) >= 3 / 4
    if max(height, width) / min(height, width) < 4 / 3:  # else a try may fail, and the centre serve
        assert (w + 0.5) * (h + 0.5) >= 0.08 * height * width


def test_without_a_try_that_fits_the_largest_central_box_of_an_allowed_ratio_serves():
    never = np.array([[0.999, 0.0, 0.5, 0.5]] * 10)  # upright, and nearly all of the area
    assert transforms.random_crop_box(100, 1000, never) == (433, 0, 133, 100)
    assert transforms.random_crop_box(1000, 90, np.array([[0.999, 0.999, 0.5, 0.5]])) == (
        0,
        440,
        90,
        120,
    )
    assert transforms.random_crop_box(1, 1, np.empty((0, 4))) == (0, 0, 1, 1)


def test_crops_are_spread_as_mxnets_own_are():
    """Against gluon's RandomResizedCrop's function: the same mean area, ratio and place."""
    height, width, num = 300, 400, 1500
    ours = np.array(
        [
            transforms.random_crop_box(height, width, draws_of(i)[:-1].reshape(-1, 4))
            for i in range(num)
        ]
    )
    random.seed(0)
    blank = mx.nd.zeros((height, width, 3), dtype="uint8")
    crop = mx.image.random_size_crop
    theirs = np.array(
        [crop(blank, (2, 2), transforms.AREA, transforms.RATIO)[1] for _ in range(num)]
    )
    for measure, bound in ((area, 0.03), (log_ratio, 0.03), (middle_x, 0.02), (middle_y, 0.02)):
        a, b = (measure(*boxes.T, height, width) for boxes in (ours, theirs))
        assert abs(a.mean() - b.mean()) < bound, measure.__name__
        assert abs(a.std() - b.std()) < bound, measure.__name__


def area(left, top, w, h, height, width):
    return w * h / (height * width)


def log_ratio(left, top, w, h, height, width):
    return np.log(w / h)


def middle_x(left, top, w, h, height, width):
    return (left + w / 2) / width


def middle_y(left, top, w, h, height, width):
    return (top + h / 2) / height


@given(height=SIDES.filter(lambda s: s < 400), width=SIDES.filter(lambda s: s < 400))
@settings(max_examples=40, deadline=None)
def test_a_train_view_has_its_shape_whatever_the_image(height, width):
    shown = train_view(noise(height, width), 32, draws_of(1))
    assert (shown.shape, shown.dtype) == ((32, 32, 3), np.uint8)


def test_a_flip_is_the_mirror_image():
    pixels, draws = noise(90, 70), draws_of(3)
    draws[-1] = 0.7
    upright = train_view(pixels, 32, draws)
    draws[-1] = 0.2
    assert (train_view(pixels, 32, draws) == upright[:, ::-1]).all()
    assert (upright != upright[:, ::-1]).any()


def test_half_of_the_views_are_flipped():
    flipped = sum(draws_of(index)[-1] < 0.5 for index in range(2000))
    assert abs(flipped / 2000 - 0.5) < 0.05


def test_a_train_view_is_what_its_box_shows():
    """A picture whose pixels say where they are."""
    y, x = np.mgrid[:240, :250]
    pixels = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    draws = draws_of(8)
    draws[-1] = 0.9
    left, top, w, h = transforms.random_crop_box(240, 250, draws[:-1].reshape(-1, 4))
    shown = train_view(pixels, 64, draws).astype(int)
    assert abs(shown[:, 0, 0] - left).max() <= w / 64 + 1
    assert abs(shown[:, -1, 0] - (left + w - 1)).max() <= w / 64 + 1
    assert abs(shown[0, :, 1] - top).max() <= h / 64 + 1
    assert abs(shown[-1, :, 1] - (top + h - 1)).max() <= h / 64 + 1


def test_a_view_leaves_the_pixels_as_they_were():
    pixels = noise(60, 60)
    before = pixels.copy()
    for index in range(5):
        train_view(pixels, 32, draws_of(index))
        transforms.center_crop(pixels, 32, 40, index % 2 == 0)
    assert (pixels == before).all()


@pytest.mark.parametrize(
    "shape", [(300, 400), (64, 64), (700, 513), (256, 256), (31, 900), (1, 1), (225, 223)]
)
def test_the_test_view_is_mxnets_own_to_the_byte(shape):
    pixels = noise(*shape)
    theirs = mx.image.imresize(mx.nd.array(pixels, dtype="uint8"), 256, 256)
    theirs = mx.image.center_crop(theirs, (224, 224))[0].asnumpy()
    assert (transforms.center_crop(pixels, 224, 256, keep_ratio=False) == theirs).all()


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (64, 80), (256, 256), (100, 399)])
def test_with_the_ratio_kept_it_is_mxnets_resize_short_to_the_byte(shape):
    pixels = noise(*shape)
    height, width = shape
    scale = 256 / min(shape)
    theirs = mx.image.imresize(
        mx.nd.array(pixels, dtype="uint8"), round(width * scale), round(height * scale)
    )
    theirs = mx.image.center_crop(theirs, (224, 224))[0].asnumpy()
    assert (transforms.center_crop(pixels, 224, 256, keep_ratio=True) == theirs).all()


def test_keeping_the_ratio_keeps_a_circle_round():
    y, x = np.mgrid[:200, :600]
    disc = (x - 299.5) ** 2 + (y - 99.5) ** 2 < 60**2
    pixels = np.repeat((disc * 255).astype(np.uint8)[..., None], 3, axis=2)
    for keep_ratio, ratio in ((True, 1.0), (False, 1 / 3)):
        shown = transforms.center_crop(pixels, 224, 256, keep_ratio)[..., 0] > 127
        width, height = shown.any(axis=0).sum(), shown.any(axis=1).sum()
        assert width / height == pytest.approx(ratio, abs=0.03)


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(8, 64), data=st.data()
)
@settings(max_examples=60, deadline=None)
def test_a_test_view_has_its_shape_whatever_the_image(height, width, side, data):
    resize = data.draw(st.integers(side, 80))
    keep_ratio = data.draw(st.booleans())
    shown = transforms.center_crop(noise(height, width), side, resize, keep_ratio)
    assert (shown.shape, shown.dtype) == ((side, side, 3), np.uint8)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (2, 40_000)])
def test_a_line_of_an_image_does_not_fill_the_memory(shape):
    """Its shorter side resized to 256 px would make the longer one five million."""
    pixels = np.full((*shape, 3), 7, np.uint8)
    middle = tuple(slice(max(0, length // 2 - 2), length // 2 + 2) for length in shape)
    pixels[middle] = 200
    tracemalloc.start()
    shown = transforms.center_crop(pixels, 224, 256, keep_ratio=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown.nbytes < peak < 20e6
    assert shown.shape == (224, 224, 3)
    assert (shown[110:114, 110:114] == 200).all()


def smooth(height, width):
    """A picture that survives JPEG, in which each place has a colour of its own."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    parts = 40 + 170 * x, 40 + 170 * y, 128 + 60 * np.sin(9 * x + 5 * y)
    return np.stack(parts, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("subsampling", [0, 2], ids=["4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(90, 70), (301, 403), (1031, 777), (2400, 1800)])
def test_a_jpeg_gives_the_view_that_its_pixels_give(size, subsampling):
    """Decoded coarser where the crop is large, it stays within what interpolation changes."""
    buffer = io.BytesIO()
    Image.fromarray(smooth(*size)).save(buffer, "JPEG", quality=97, subsampling=subsampling)
    jpeg = open_image(buffer.getvalue())
    assert isinstance(jpeg, JpegImage)
    found = np.empty((64, 64, 3), np.uint8)
    for index in range(8):
        transforms.random_resized_crop(jpeg, draws_of(index), found)
        expected = train_view(jpeg.pixels(), 64, draws_of(index))
        difference = abs(found.astype(int) - expected)
        assert difference.mean() < 1.5
        assert difference.max() <= 12


def test_a_large_crop_is_decoded_at_a_fraction_and_never_below_the_view():
    buffer = io.BytesIO()
    Image.fromarray(smooth(1600, 1200)).save(buffer, "JPEG")
    jpeg = open_image(buffer.getvalue())
    for side, shrink in ((1200, 1), (601, 1), (600, 2), (300, 4), (150, 8), (8, 8)):
        shown = jpeg.crop((0, 0, 1200, 1600), side)
        assert shown.shape == (1600 // shrink, 1200 // shrink, 3)
        assert min(shown.shape[:2]) >= side


@given(
    height=st.integers(1, 700), width=st.integers(1, 700), side=st.integers(1, 90), data=st.data()
)
@settings(max_examples=60, deadline=None)
def test_a_box_of_a_jpeg_is_never_empty(height, width, side, data):
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (
        left,
        top,
        data.draw(st.integers(1, width - left)),
        data.draw(st.integers(1, height - top)),
    )
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "JPEG")
    shown = open_image(buffer.getvalue()).crop(box, side)
    assert min(shown.shape[:2]) >= min(side, *box[2:])
