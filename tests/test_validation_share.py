"""data.validation_share: which training images become validation images."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dist_ft.config import Config
from dist_ft.data import image_cache, image_folder, validation_share
from dist_ft.data.dataset import DatasetError
from dist_ft.data.packing import write_archives
from dist_ft.data.sources import choose_validation, read, read_divided
from dist_ft.data.transforms import InputSpec
from dist_ft.data.validation_share import Picture, divide
from dist_ft.recipe_settings import DataSettings
from dist_ft.settings import ConfigError


def write_pictures(root, num_images, seed=0):
    """Random pictures in two classes: the stripes of tests.images are similar to each other."""
    rng = np.random.RandomState(seed)
    for number in range(num_images):
        small = Image.fromarray(rng.randint(0, 256, (6, 6, 3)).astype(np.uint8))
        file = root / f"class_{'ab'[number % 2]}" / f"{seed}-{number:03}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small.resize((64, 64), Image.BICUBIC).save(file, quality=90)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A flat folder of 64 pictures in two classes, without splits, some of them twice."""
    root = write_pictures(tmp_path_factory.mktemp("share") / "data", 64)
    for file in sorted(root.glob("*/*"))[::3]:
        Image.open(file).save(file.with_name(f"copy-{file.name}"), quality=70)
    return root


@pytest.fixture
def settings_of(tmp_path):
    def settings_of(root, share=0.3, **settings):
        cache = str(tmp_path / f"cache-{root.name}")
        return DataSettings(data=str(root), val_share=share, cache_dir=cache, **settings)

    return settings_of


def contents(split):
    return {hashlib.sha256(split.read(index)).hexdigest() for index in range(len(split))}


def test_every_image_is_on_one_side_and_the_sides_are_chosen_by_the_seed(pictures, settings_of):
    undivided = read(settings_of(pictures)).train
    chosen = set()
    for seed in range(3):
        dataset = read_divided(settings_of(pictures, seed=seed))
        assert dataset.test is None and dataset.selection is dataset.val
        assert sorted(dataset.train.paths + dataset.val.paths) == sorted(undivided.paths)
        for split in (dataset.train, dataset.val):
            for path, label in zip(split.paths, split.labels):
                assert path.startswith(f"{dataset.classes[label]}/")
        chosen.add(dataset.val.paths)
    assert len(chosen) == 3


def test_names_order_labels_and_times_do_not_matter(pictures, settings_of, tmp_path):
    other = tmp_path / "other"
    files = sorted(pictures.glob("*/*"))
    random.Random(0).shuffle(files)
    for number, file in enumerate(files):
        target = other / "train" / "xyz"[number % 3] / f"{number}{file.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        os.utime(target, (number, number))
    shutil.copytree(other / "train", other / "test")
    dataset = read_divided(settings_of(other))
    assert contents(dataset.val) == contents(read_divided(settings_of(pictures)).val)
    assert len(dataset.test) == len(files)


def test_archives_are_divided_as_the_folder_is(pictures, settings_of, tmp_path):
    root = tmp_path / "data"
    for split in ("train", "test"):
        shutil.copytree(pictures, root / split)
    write_archives(image_folder.scan(str(root)), tmp_path / "archives", side=0, quality=95)
    (tmp_path / "archives" / "test.rec").unlink()
    dataset = read_divided(settings_of(tmp_path / "archives"))
    expected = read_divided(settings_of(pictures))
    assert contents(dataset.val) == contents(expected.val)
    assert contents(dataset.train) == contents(expected.train)
    assert dataset.val.labels == expected.val.labels
    assert list(dataset.val.sizes()) == list(expected.val.sizes())


def test_added_images_leave_the_others_on_their_side(pictures, settings_of, tmp_path):
    before = read_divided(settings_of(pictures))
    root = tmp_path / "more"
    shutil.copytree(pictures, root)
    write_pictures(root, 40, seed=1)
    after = read_divided(settings_of(root))
    assert contents(before.val) < contents(after.val)
    assert contents(before.train) < contents(after.train)


def encoded(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_copies_of_a_picture_are_on_one_side_also_in_another_class(settings_of, tmp_path):
    root = write_pictures(tmp_path / "data", 24)
    for file in sorted((root / "class_a").iterdir()):
        image = Image.open(file).convert("RGB")
        copies = {
            "class_a/same": file.read_bytes(),
            "class_b/coarse": encoded(image, 60),
            "class_a/small": encoded(image.resize((52, 52)), 90),
            "class_b/mirror": encoded(ImageOps.mirror(image), 80),
        }
        for name, data in copies.items():
            (root / f"{name}-{file.stem}.jpg").write_bytes(data)
    dataset = read_divided(settings_of(root, 0.5))
    sides: dict[str, set[str]] = {}  # by the number of the picture
    for name, split in dataset.splits.items():
        for path in split.paths:
            sides.setdefault(path.rpartition("-")[2][:3], set()).add(name)
    sides = {number: side for number, side in sides.items() if int(number) % 2 == 0}
    assert len(sides) == 12 and all(len(side) == 1 for side in sides.values())
    assert {name for side in sides.values() for name in side} == {"train", "val"}


def test_an_unreadable_image_stays_in_train(pictures, settings_of, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(pictures, root)
    for number in range(20):
        (root / "class_a" / f"broken-{number}.jpg").write_bytes(b"no image %d" % number)
    dataset = read_divided(settings_of(root, 0.5))
    assert sum("broken" in path for path in dataset.train.paths) == 20


def test_the_choice_is_read_from_the_cache_until_the_files_change(
    pictures, settings_of, tmp_path, monkeypatch
):
    root = tmp_path / "cached"
    shutil.copytree(pictures, root)
    config = settings_of(root)
    calls = []
    inspect = validation_share.duplicates.inspect
    monkeypatch.setattr(
        validation_share.duplicates, "inspect", lambda files: calls.append(files) or inspect(files)
    )
    first, second = (choose_validation(config, read(config)) for _ in range(2))
    assert first == second and len(calls) == 1
    choose_validation(settings_of(root, seed=1), read(config))
    (root / "class_a/0-000.jpg").write_bytes((root / "class_b/0-001.jpg").read_bytes())
    choose_validation(config, read(config))
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["val", "Valid"])
def test_a_data_set_with_val_is_not_divided(pictures, settings_of, tmp_path, name):
    root = tmp_path / "data"
    for split in ("train", "test", name):
        shutil.copytree(pictures, root / split)
    with pytest.raises(DatasetError, match=f"already, {name}; remove them, or drop --val-share"):
        read(settings_of(root))


def test_classes_of_one_picture_cannot_be_divided(settings_of, tmp_path):
    root = write_pictures(tmp_path / "data", 2)
    with pytest.raises(DatasetError, match="no class has two different pictures"):
        read_divided(settings_of(root))


def test_divisions_of_one_folder_have_caches_of_their_own(pictures, settings_of):
    def names(**settings):
        dataset = read_divided(settings_of(pictures, **settings))
        files = image_cache.cache_files(dataset, InputSpec(32, 36, False), 36, Path("cache"))
        return {file.path.name for file in files.values()}

    all_names = [names(), names(seed=1), names(share=0.2)]
    assert len(set().union(*all_names)) == 6
    assert names() == all_names[0]


def test_a_run_is_not_written_among_the_class_folders(pictures):
    data = str(pictures)
    with pytest.raises(ConfigError, match="is inside the images of --data"):
        Config(data=data, out=f"{data}/run", val_share=0.1)
    assert Config(data=data, out=f"{data}/runs/1", val_share=0.1).val_share == 0.1


positions = st.floats(0, 1, exclude_max=True)
groups = st.lists(
    st.tuples(positions, st.sets(st.integers(0, 4), min_size=1, max_size=2)),
    min_size=1,
    max_size=40,
)


@given(groups, st.floats(0.01, 0.9))
@settings(max_examples=100, deadline=None)
def test_train_has_every_class_and_val_every_class_of_several_pictures(groups, share):
    pictures = [
        Picture(position, (index,), frozenset(labels))
        for index, (position, labels) in enumerate(groups)
    ]
    chosen = divide(pictures, share)
    for label in range(5):
        own = {picture for picture in pictures if label in picture.labels}
        if own:
            assert own - chosen
        if len(own) > 1 and all(len(picture.labels) == 1 for picture in pictures):
            assert own & chosen


@given(groups, st.floats(0.01, 0.9))
@settings(max_examples=100, deadline=None)
def test_only_classes_that_would_have_one_side_only_depart_from_the_threshold(groups, share):
    pictures = [
        Picture(position, (index,), frozenset({min(labels)}))
        for index, (position, labels) in enumerate(groups)
    ]
    chosen = divide(pictures, share)
    for label in range(5):
        own = {picture for picture in pictures if label in picture.labels}
        below = {picture for picture in own if picture.position < share}
        if below and own - below:
            assert own & chosen == below
        else:
            assert len((own & chosen) ^ below) <= 1


def test_the_share_of_many_pictures_is_met_within_its_standard_deviation():
    num, share = 20_000, 0.1
    digests = [hashlib.blake2b(b"%d" % n, digest_size=16).digest() for n in range(num)]
    for seed in range(3):
        positions = [validation_share._position(seed, digest) for digest in digests]
        num_chosen = sum(position < share for position in positions)
        assert abs(num_chosen - num * share) < 4 * math.sqrt(num * share * (1 - share))
