"""data.augmentation: operations equal those of Pillow, and depend on an image's draws only."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from dist_ft.config import Config
from dist_ft.data import augmentation, pixel_operations, sampler, transforms
from dist_ft.data.augmentation import DEFAULT, OPERATIONS, Augmentation, augment
from dist_ft.data.image import BLANK, DecodedImage
from dist_ft.data.image_folder import scan
from dist_ft.data.orientation import BY_EXIF_VALUE, UPRIGHT
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.training.inputs import augmentation_of
from tests.image_bytes import EXIF_ORIENTATION, exif
from tests.images import make_folder

SIDE = 48
SPEC = InputSpec(SIDE, SIDE, False)
EVERYTHING = Augmentation(0.3, 1.5, "both", 0.4, True, 0.5)
LEVELS = (-1.0, -0.6, -0.1, 0.0, 0.3, 0.7, 1.0)


def photograph(height=SIDE, width=SIDE, seed=0):
    """Smooth areas and edges, with values from 0 to 255 in each channel."""
    rng = np.random.RandomState(seed)
    coarse = rng.randint(-60, 316, (height // 8 + 1, width // 8 + 1, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height)).clip(0, 255).astype(np.uint8)


def augmented(index=0, a=DEFAULT, image=None, draws=None):
    image = DecodedImage(photograph(70, 90)) if image is None else image
    draws = sampler.image_draws(0, 0, index, a.num_draws) if draws is None else draws
    out = np.empty((SIDE, SIDE, 3), np.uint8)
    augment(image, draws, out, a)
    return out


def difference(pixels, expected):
    return abs(np.asarray(pixels, int) - np.asarray(expected, int))


def test_the_defaults_are_those_of_the_settings():
    assert augmentation_of(Config()) == DEFAULT
    given = Config(crop_scale=0.3, crop_ratio=1.5, flip="both", jitter=0.4, trivial_augment=True)
    assert augmentation_of(given) == EVERYTHING._replace(random_erasing=0.0)


@pytest.mark.parametrize("index", range(20))
def test_by_default_an_image_is_cropped_resized_and_half_of_the_time_mirrored(index):
    """The arithmetic of the original recipe's transforms, written out with its constants."""
    pixels = photograph(70, 90)
    *crop_draws, flip = sampler.image_draws(0, 0, index, 41)
    for area, ratio, x, y in np.reshape(crop_draws, (10, 4)):  # noqa: B007 - of the last one
        area = 70 * 90 * (0.08 + area * (1 - 0.08))
        ratio = 0.75 * ((4 / 3) / 0.75) ** ratio
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= 90 and h <= 70:
            break
    left, top = int(x * (90 - w + 1)), int(y * (70 - h + 1))
    expected = cv2.resize(pixels[top : top + h, left : left + w], (SIDE, SIDE))
    expected = expected[:, ::-1] if flip < 0.5 else expected
    assert (augmented(index, image=DecodedImage(pixels)) == expected).all()


def test_enabling_an_operation_does_not_change_the_others():
    """Their random numbers have fixed places, whose number depends on what is enabled."""
    most = sampler.image_draws(3, 4, 5, 200)
    for a in (DEFAULT, DEFAULT._replace(jitter=0.1), DEFAULT._replace(random_erasing=0.1)):
        assert DEFAULT.num_draws <= a.num_draws <= EVERYTHING.num_draws
        assert (sampler.image_draws(3, 4, 5, a.num_draws) == most[: a.num_draws]).all()
    erased = DEFAULT._replace(random_erasing=1.0)
    both = augmented(a=erased._replace(jitter=0.4, trivial_augment=True))
    is_blank = (augmented(a=erased) == BLANK).all(axis=-1)
    assert is_blank.any() and (both[is_blank] == BLANK).all()


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical", "both"])
def test_images_are_flipped_in_the_given_directions_only(flip):
    draws = sampler.image_draws(0, 0, 7, 42)
    upright = augmented(a=DEFAULT._replace(flip="none"), draws=draws)
    for horizontal in (0.0, np.nextafter(0.5, 0), 0.5, 0.99):
        for vertical in (0.0, np.nextafter(0.5, 0), 0.5, 0.99):
            draws[40:42] = horizontal, vertical
            expected = upright
            if flip in ("horizontal", "both") and horizontal < 0.5:
                expected = expected[:, ::-1]
            if flip in ("vertical", "both") and vertical < 0.5:
                expected = expected[::-1]
            assert (augmented(a=DEFAULT._replace(flip=flip), draws=draws) == expected).all()
    assert (upright != upright[:, ::-1]).any() and (upright != upright[::-1]).any()


@pytest.mark.parametrize("value", range(1, 9))
def test_a_rotated_jpeg_is_flipped_like_its_upright_pixels(value):
    stored = photograph(30, 20)
    orientation = BY_EXIF_VALUE.get(value, UPRIGHT)
    upright = np.asarray(ImageOps.exif_transpose(_with_exif(stored, value)))
    assert (orientation.turn(stored) == upright).all()
    assert (orientation.flipped().turn(stored) == upright[::-1]).all()
    assert (orientation.mirrored().flipped().turn(stored) == upright[::-1, ::-1]).all()


def _with_exif(pixels, value):
    image = Image.fromarray(pixels)
    image.getexif()[EXIF_ORIENTATION] = exif(value)[EXIF_ORIENTATION]
    return image


@given(scale=st.floats(0, 1), ratio=st.floats(1, 4), index=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_crops_are_within_the_given_scale_and_ratio(scale, ratio, index):
    attempts = sampler.image_draws(0, 0, index, 40).reshape(-1, 4)
    _, _, w, h = transforms.random_crop_box(600, 500, attempts, (scale, 1.0), ratio)
    # Sides are rounded to whole px.
    assert 1 / ratio <= (w + 0.5) / (h - 0.5) and (w - 0.5) / (h + 0.5) <= ratio
    # If no attempt fits, the largest box is used; a ratio of 1 allows only a square.
    assert (w + 0.5) * (h + 0.5) >= min(scale * 600 * 500, 500 * 500)


def test_with_a_scale_of_one_a_square_image_is_shown_whole():
    a = DEFAULT._replace(min_area=1.0, flip="none")
    pixels = photograph(90, 90)
    for index in range(5):
        shown = augmented(index, a, DecodedImage(pixels))
        assert (shown == cv2.resize(pixels, (SIDE, SIDE))).all()


def pillow_affine(image, *matrix):
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, matrix, resample, fillcolor=BLANK)


# The operations of torchvision's TrivialAugmentWide, as it applies them to a Pillow image.
BY_PILLOW = {
    "identity": lambda image, level: image,
    "shear x": lambda image, level: pillow_affine(image, 1, 0.99 * level, 0, 0, 1, 0),
    "shear y": lambda image, level: pillow_affine(image, 1, 0, 0, 0.99 * level, 1, 0),
    "shift x": lambda image, level: pillow_affine(image, 1, 0, -int(32 * level), 0, 1, 0),
    "shift y": lambda image, level: pillow_affine(image, 1, 0, 0, 0, 1, -int(32 * level)),
    "rotate": lambda image, level: image.rotate(
        135 * level, Image.Resampling.BILINEAR, fillcolor=BLANK
    ),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.99 * level),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(1 + 0.99 * level),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(1 + 0.99 * level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * level),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(6 * abs(level))),
    "solarize": lambda image, level: ImageOps.solarize(image, 255 * (1 - abs(level))),
    "auto contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
}
EXACT = ("identity", "shift x", "shift y", "posterize", "solarize", "auto contrast", "equalize")
GEOMETRIC = ("shear x", "shear y", "rotate")


def test_the_operations_are_those_of_torchvision():
    assert list(OPERATIONS) == list(BY_PILLOW)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in GEOMETRIC])
def test_an_operation_on_colors_equals_pillows(name, level):
    pixels = photograph()
    actual = OPERATIONS[name](pixels.copy(), level)
    expected = np.asarray(BY_PILLOW[name](Image.fromarray(pixels), level))
    if name == "sharpness":  # Pillow leaves the border as it is
        actual, expected = actual[1:-1, 1:-1], expected[1:-1, 1:-1]
    # Pillow rounds the gray or smoothed image, whose share is at most 0.99, and rounds the result
    # towards zero. OpenCV's factors are multiples of 1/1024, and its result is rounded.
    rounding = 0.5 * abs(0.99 * level) + 1 + 3 * 255 / 1024 / 2 + 0.5
    assert difference(actual, expected).max() <= (0 if name in EXACT else rounding)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_an_operation_on_places_equals_pillows(name, level):
    pixels = photograph()
    actual = OPERATIONS[name](pixels, level)
    expected = BY_PILLOW[name](Image.fromarray(pixels), level)
    # OpenCV rounds places to 1/32 px in both directions; Pillow rounds values towards zero.
    steepest = (
        difference(pixels[1:], pixels[:-1]).max() + difference(pixels[:, 1:], pixels[:, :-1]).max()
    )
    inside = shown(name, level, margin=2)
    assert inside.mean() > 0.3
    assert difference(actual, expected)[inside].max() <= steepest / 64 + 1.5
    outside = cv2.dilate(shown(name, level, margin=0).astype(np.uint8), np.ones((5, 5))) == 0
    assert (actual[outside] == BLANK).all()


def shown(name, level, margin):
    """(side, side) bool: where an operation shows the image without a margin, px, at its border."""
    white = np.zeros((SIDE, SIDE, 3), np.uint8)
    white[margin : SIDE - margin, margin : SIDE - margin] = 255
    return (np.asarray(BY_PILLOW[name](Image.fromarray(white), level)) == 255).all(axis=-1)


@pytest.mark.parametrize("name", ["auto contrast", "equalize", "sharpness", "color"])
def test_a_gray_image_of_one_level_is_not_changed(name):
    pixels = np.full((8, 8, 3), 77, np.uint8)
    for level in LEVELS:
        assert (OPERATIONS[name](pixels, level) == pixels).all()


def test_trivial_augment_chooses_operations_and_magnitudes_evenly(monkeypatch):
    chosen = record_operations(monkeypatch)
    num_images = 6000
    for index in range(num_images):
        draws = sampler.image_draws(1, 0, index, Augmentation(trivial_augment=True).num_draws)
        augmentation.changes(Augmentation(trivial_augment=True))["trivial_augment"](None, draws)
    names, levels = zip(*chosen)
    assert_even([names.count(name) for name in OPERATIONS])
    magnitudes = np.rint(np.abs(levels) * 30).astype(int)
    assert np.abs(np.abs(levels) * 30 - magnitudes).max() < 1e-9
    assert_even(np.bincount(magnitudes, minlength=31))
    assert_even([sum(level < 0 for level in levels), sum(level > 0 for level in levels)])


def record_operations(monkeypatch):
    """Replaces the operations; returns the list of their (name, level) to be."""
    chosen = []

    def recording(name):
        def operation(pixels, level):
            chosen.append((name, level))
            return pixels

        return operation

    monkeypatch.setattr(augmentation, "OPERATIONS", {name: recording(name) for name in OPERATIONS})
    return chosen


def assert_even(counts):
    """Five standard errors of each count around the mean."""
    mean = np.mean(counts)
    assert np.abs(counts - mean).max() <= 5 * np.sqrt(mean)


def test_jitter_varies_each_factor_within_its_bounds(monkeypatch):
    factors = []
    monkeypatch.setattr(augmentation, "adjust", lambda pixels, *given: factors.append(given))
    a = Augmentation(jitter=0.4)
    for index in range(3000):
        augmentation.changes(a)["jitter"](None, sampler.image_draws(1, 0, index, a.num_draws))
    factors = np.array(factors)
    assert factors.shape == (3000, 3)  # brightness, contrast, saturation
    assert (factors >= 0.6).all() and (factors <= 1.4).all()
    for values in factors.T:
        assert_even(np.histogram(values, bins=10, range=(0.6, 1.4))[0])
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 5 / np.sqrt(3000)


@given(brightness=st.floats(0, 2), contrast=st.floats(0, 2), saturation=st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_an_adjustment_equals_three_of_pillows_in_a_row(brightness, contrast, saturation):
    """On colors that no adjustment clips."""
    pixels = photograph() // 16 + 56
    image = ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    expected = ImageEnhance.Color(image).enhance(saturation)
    # Each adjustment rounds its result towards zero and its gray to the nearest number.
    error = 1.0
    for factor in (contrast, saturation):
        error = factor * error + abs(1 - factor) * (error + 0.5) + 1
    error += 3 * 255 / 1024 / 2 + 0.5  # OpenCV's factors are multiples of 1/1024
    actual = pixel_operations.adjust(pixels, brightness, contrast, saturation)
    assert difference(actual, expected).max() <= error


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_erasing_blanks_a_box_in_the_given_share_of_the_images(probability):
    num_images, areas, a = 1000, [], Augmentation(random_erasing=probability)
    for index in range(num_images):
        pixels = np.zeros((64, 64, 3), np.uint8)
        draws = sampler.image_draws(2, 0, index, a.num_draws)
        erased = (augmentation.changes(a)["random_erasing"](pixels, draws) == BLANK).all(axis=-1)
        if erased.any():
            rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
            assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            areas.append(erased.mean())
    standard_error = np.sqrt(probability * (1 - probability) / num_images)
    assert abs(len(areas) / num_images - probability) <= 5 * standard_error
    # Of 64 x 64 px; sides are rounded to whole px.
    assert min(areas) > 0.02 * 0.9 and max(areas) < 1 / 3 * 1.03
    assert_even(np.histogram(areas, bins=5, range=(0.02, 1 / 3))[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return scan(str(make_folder(tmp_path_factory.mktemp("augmented"), [9, 8, 7], [1, 1, 1])))


def pixels_of(data, epoch=0, seed=0, rank=0, size=1, num_workers=2, a=EVERYTHING):
    """The augmented pixels of a rank by image, in steps of 10, 10 and 4 images."""
    batches = RankBatches(data, SPEC, seed, rank, size, num_workers, 1, augmentation=a)
    slices = [slice(0, 10), slice(10, 20), slice(20, 24)]
    try:
        return {
            int(index): pixels.tobytes()
            for batch in batches.train(epoch, slices)
            for index, pixels in zip(batch.indices, batch.x)
            if index >= 0
        }
    finally:
        batches.close()


@pytest.mark.parametrize("a", [EVERYTHING, Augmentation(trivial_augment=True)])
def test_images_are_the_same_for_any_number_of_workers_and_ranks(data, a):
    expected = pixels_of(data, a=a)
    assert len(set(expected.values())) == 24
    assert pixels_of(data, num_workers=5, a=a) == expected
    for size in (2, 3, 4):
        merged = {}
        for rank in range(size):
            merged.update(pixels_of(data, rank=rank, size=size, a=a))
        assert merged == expected


def test_every_epoch_and_seed_has_other_images(data):
    images = [pixels_of(data, epoch, seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    assert all(len({pixels[index] for pixels in images}) == 3 for index in range(24))
