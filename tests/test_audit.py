"""The audit finds planted duplicates and nothing else, and reports every other problem."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from sample import DISHES, photograph

from dist_ft.data import duplicates, perceptual_hash
from dist_ft.diagnostics.dataset_audit import audit_dataset
from dist_ft.recipe_settings import DataSettings
from tests.conftest import ENVIRONMENT, FOOD5, needs_photographs, run_job


def encode(picture, file_type="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, file_type, **options)
    return buffer.getvalue()


def shrink(picture):
    return picture.resize([round(0.8 * length) for length in picture.size], Image.BICUBIC)


# Copies of an image file: name, extension, how it is copied, and the kind that the audit reports.
COPIES = [
    ("exact", ".jpg", lambda data, _: data, duplicates.BYTES),
    ("png", ".png", lambda _, picture: encode(picture, "PNG"), duplicates.PIXELS),
    ("coarse", ".jpg", lambda _, picture: encode(picture, quality=60), duplicates.ALTERED),
    ("small", ".jpg", lambda _, picture: encode(shrink(picture)), duplicates.ALTERED),
    ("mirror", ".jpg", lambda _, picture: encode(ImageOps.mirror(picture)), duplicates.MIRRORED),
    (
        "all",
        ".jpg",
        lambda _, picture: encode(ImageOps.mirror(shrink(picture)), quality=60),
        "mirrored",
    ),
]


def plant(root: Path, num_each: int) -> dict[str, tuple[str, str]]:
    """Puts copies of training images into test, `num_each` of each kind; returns the original and
    the kind by path."""
    files = sorted((root / "train").glob("*/*"))
    chosen = np.random.RandomState(0).permutation(len(files))[: num_each * len(COPIES)]
    planted = {}
    for index, (name, extension, copy, kind) in zip(chosen, itertools.cycle(COPIES)):
        file = files[index]
        data = file.read_bytes()
        target = root / "test" / file.parent.name / f"{name}-{file.stem}{extension}"
        target.write_bytes(copy(data, Image.open(io.BytesIO(data)).convert("RGB")))
        planted[str(target.relative_to(root))] = (str(file.relative_to(root)), kind)
    return planted


def find_copies(root: Path) -> dict[str, tuple[str, str]]:
    pairs = audit_dataset(DataSettings(data=str(root))).pairs
    return {pair.duplicate.file.path: (pair.first.path, pair.duplicate.kind) for pair in pairs}


@pytest.fixture(scope="session")
def dishes(tmp_path_factory) -> Path:
    """16 and 6 generated photographs of each class of food5, 96 x 72 px."""
    root = tmp_path_factory.mktemp("dishes") / "data"
    for (split, count), (label, name) in itertools.product(
        (("train", 16), ("test", 6)), enumerate(DISHES)
    ):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([count, label, number])
            picture = photograph(name, rng, (96, 72))
            picture.save(root / split / name / f"{number:03}.jpg", quality=90)
    return root


@pytest.fixture
def data(dishes, tmp_path) -> Path:
    return Path(shutil.copytree(dishes, tmp_path / "data"))


def test_every_planted_copy_is_found_and_nothing_else(data):
    planted = plant(data, num_each=10)
    assert find_copies(data) == planted


@needs_photographs
@pytest.mark.jobs
def test_copies_are_found_among_thousands_of_photographs(tmp_path):
    """The photographs themselves contain five pairs of copies: four re-encoded, one cropped."""
    data = Path(shutil.copytree(FOOD5, tmp_path / "data"))
    known = find_copies(data)
    planted = plant(data, num_each=200)
    found = find_copies(data)
    hits = {path for path, (first, _) in planted.items() if found.get(path, ("",))[0] == first}
    exact_kinds = (duplicates.BYTES, duplicates.PIXELS)
    exact = {path for path, (_, kind) in planted.items() if kind in exact_kinds}
    assert exact <= hits
    assert len(hits - exact) >= 0.95 * len(planted.keys() - exact)
    assert len(known) <= 10
    assert found.keys() - planted.keys() == known.keys()


def test_all_files_of_a_picture_are_one_group_led_by_a_training_image(data):
    coarse = encode(Image.open(data / "train" / "baklava" / "000.jpg"), quality=60)
    for split, name in (("test", "x"), ("test", "y"), ("train", "z")):
        (data / split / "baklava" / f"{name}.jpg").write_bytes(coarse)
    audit = audit_dataset(DataSettings(data=str(data)))
    (group,) = audit.groups
    assert [file.path for file in group.files] == [
        "train/baklava/000.jpg",
        "train/baklava/z.jpg",
        "test/baklava/x.jpg",
        "test/baklava/y.jpg",
    ]
    assert {duplicate.kind for duplicate in group.duplicates} == {duplicates.ALTERED}
    assert len(audit.leaks) == 2


def test_problems_are_reported_with_remedies_and_status_1(data, tmp_path):
    train, test = data / "train", data / "test"
    good = (train / "baklava" / "001.jpg").read_bytes()
    leak = test / "baklava" / os.fsdecode(b"caf\xe9\n.jpg")  # is not text
    leak.write_bytes(good)
    (train / "apple_pie" / "wrong.jpg").write_bytes(good)
    (train / "baklava" / "cut.jpg").write_bytes(good[: len(good) // 2])
    Image.new("RGB", (90, 60), "red").save(test / "baklava" / "red.png")
    Image.open(io.BytesIO(good)).resize((20, 90)).save(test / "baklava" / "bar.png")
    for number in range(2, 13):
        (train / "beef_tartare" / f"{number:03}.jpg").unlink()
        (train / "beef_tartare" / f"{number:03}.txt").write_text("not an image")
    json_file = tmp_path / "findings.json"
    arguments = ["-m", "dist_ft.audit", str(data), "--json", str(json_file)]
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "utf-8:strict"}
    ended = run_job(arguments, 60, environment=environment)
    assert ended.status == 1, ended.output
    for text in (
        "FAIL  unreadable 1\n",
        "train/baklava/cut.jpg: ",
        "FAIL  leaks ",
        "test/baklava/caf\\udce9\\n.jpg is train/apple_pie/wrong.jpg (the same bytes)",
        "FAIL  labels ",
        "train/baklava/001.jpg is train/apple_pie/wrong.jpg (the same bytes)",
        "note  balance    5 (beef_tartare) to 17 (apple_pie) training images per class",
        "test/baklava/bar.png: 20 x 90 px",
        "test/baklava/red.png: 90 x 60 px",
        "-> they inflate the accuracy: remove them from one of the splits",
    ):
        assert text in ended.output, (text, ended.output)
    findings = json.loads(json_file.read_text(encoding="utf-8"))
    assert not findings["is_clean"]
    assert list(findings["unreadable"]) == ["train/baklava/cut.jpg"]
    assert ["train/apple_pie/wrong.jpg", str(leak.relative_to(data))] in findings["leaks"]
    assert ["train/apple_pie/wrong.jpg", "train/baklava/001.jpg"] in findings["conflicts"]
    assert list(findings["tiny"]) == list(findings["long"]) == ["test/baklava/bar.png"]
    assert list(findings["plain"]) == ["test/baklava/red.png"]
    assert findings["num_images"]["beef_tartare"] == {"train": 5, "test": 6}


def test_pictures_of_val_are_compared_with_those_of_both_other_splits(data):
    shutil.copytree(data / "test", data / "val")
    audit = audit_dataset(DataSettings(data=str(data)))
    assert len(audit.leaks) == sum(counts["test"] for counts in audit.num_images.values())
    assert all(pair.paths[0].replace("val/", "test/") == pair.paths[1] for pair in audit.leaks)
    assert audit.num_images["baklava"]["val"] == audit.num_images["baklava"]["test"]


def test_a_folder_without_splits_and_a_list_of_it_are_audited(data, tmp_path):
    flat, file_list = data / "train", tmp_path / "train.csv"
    lines = (f"{file.relative_to(flat)},{file.parent.name}\n" for file in flat.glob("*/*"))
    file_list.write_text("".join(lines))
    for flags in ([], ["--train-list", str(file_list)]):
        ended = run_job(["-m", "dist_ft.audit", str(flat), "--val-share", "0.1", *flags], 60)
        assert ended.status == 0, ended.output
        assert ": 80 images in " in ended.output
    ended = run_job(["-m", "dist_ft.audit", str(flat), "--train-list", str(file_list)], 60)
    assert ended.status == 2 and "needs --test-list, --val-list or --val-share" in ended.output


def test_a_clean_data_set_ends_with_status_0(data):
    ended = run_job(["-m", "dist_ft.audit", str(data)], 60)
    assert ended.status == 0, ended.output
    assert ": 110 images in " in ended.output
    assert "FAIL" not in ended.output and "note" not in ended.output


@pytest.mark.parametrize(
    "flags, message",
    [(["--json", "."], "--json .: is a folder"), (["--alike", "0.4"], "must be at least 0.5")],
)
def test_unusable_flags_end_with_status_2_before_images_are_read(data, flags, message):
    ended = run_job(["-m", "dist_ft.audit", str(data), *flags], 60)
    assert ended.status == 2
    assert message in ended.output and "images in" not in ended.output


def test_a_missing_folder_ends_with_status_2():
    ended = run_job(["-m", "dist_ft.audit", "/nowhere"], 60)
    assert ended.status == 2
    assert ended.output.startswith("dist_ft: /nowhere: no such folder")


pictures = arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(3)))


@given(pictures)
@settings(max_examples=60, deadline=None)
def test_a_picture_is_similar_to_itself_and_to_its_mirror_image(pixels):
    original = perceptual_hash.perceptual_hash(pixels)
    mirrored = perceptual_hash.perceptual_hash(np.ascontiguousarray(pixels[:, ::-1]))
    if original.any():
        assert abs(perceptual_hash.similarity(original, original)[0] - 1) < 1e-4
        assert abs(perceptual_hash.similarity(original, mirrored)[0] - 1) < 1e-2


def test_similar_pairs_are_found_across_the_tiles_of_the_matrix(monkeypatch):
    monkeypatch.setattr(perceptual_hash, "TILE_ROWS", 64)
    monkeypatch.setattr(perceptual_hash, "TILE_COLUMNS", 256)
    rng = np.random.default_rng(0)
    hashes = rng.normal(size=(600, perceptual_hash.NUM_FREQUENCIES**2)).astype(np.float32)
    last = len(hashes) - 1
    for index in range(0, 250, 7):
        hashes[last - index] = hashes[index] + rng.normal(0, 0.1, hashes.shape[1])
    hashes[:, 0] = 0  # of a real hash: the mean has frequency 0
    hashes /= np.linalg.norm(hashes, axis=1, keepdims=True)
    pairs = perceptual_hash.similar_pairs(hashes, 0.9)
    assert sorted(zip(*pairs)) == [(index, last - index) for index in range(0, 250, 7)]
