"""audit: planted copies are found, strangers are not copies, and what is wrong is told."""

from __future__ import annotations

import importlib.util
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

from dist_ft.data.image_folder import scan
from dist_ft.data.leakage import find_leaks, leak_message
from dist_ft.diagnostics import duplicates, perceptual_hash
from dist_ft.diagnostics.dataset_audit import audit
from dist_ft.diagnostics.perceptual_hash import similar_pairs, similarity, sketch
from tests.conftest import ENVIRONMENT, FOOD5, REPO, needs_photographs, run_job


def encoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def smaller(picture):
    size = tuple(round(0.8 * length) for length in picture.size)
    return picture.resize(size, Image.BICUBIC)


COPIES = {  # of a picture: file name, encoded bytes, what the audit calls it
    "exact": lambda data, picture: (".jpg", data, duplicates.BYTES),
    "png": lambda data, picture: (".png", encoded(picture, "PNG"), duplicates.PIXELS),
    "coarse": lambda data, picture: (".jpg", encoded(picture, quality=60), duplicates.ALTERED),
    "small": lambda data, picture: (".jpg", encoded(smaller(picture)), duplicates.ALTERED),
    "mirrored": lambda data, picture: (
        *(".jpg", encoded(ImageOps.mirror(picture), quality=90)),
        duplicates.MIRRORED,
    ),
    "all": lambda data, picture: (
        *(".jpg", encoded(ImageOps.mirror(smaller(picture)), quality=60)),
        duplicates.MIRRORED,
    ),
}


def plant(root, num_each):
    """Puts copies of training images into test, each kind of so many; returns their first path
    and kind by their own path."""
    files = sorted((root / "train").glob("*/*"))
    chosen = np.random.RandomState(0).permutation(len(files))[: num_each * len(COPIES)]
    planted = {}
    for index, (name, alter) in zip(chosen, itertools.cycle(COPIES.items())):
        file = files[index]
        data = file.read_bytes()
        extension, copy, how = alter(data, Image.open(file).convert("RGB"))
        target = root / "test" / file.parent.name / f"{name}-{file.stem}{extension}"
        target.write_bytes(copy)
        planted[str(target.relative_to(root))] = (str(file.relative_to(root)), how)
    return planted


def found(root):
    """The first path and kind of each copy that the audit names, by its path."""
    pairs = audit(str(root)).pairs()
    return {p.copy.image.path: (p.first.path, p.copy.how) for p in pairs}


@pytest.fixture(scope="session")
def dishes(tmp_path_factory):
    """food5's generated photographs, 16 a class to train on and 6 to test on, 96 px wide."""
    root = tmp_path_factory.mktemp("dishes") / "data"
    spec = importlib.util.spec_from_file_location("sample", REPO / "food5" / "sample.py")
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    for split, name in itertools.product(sample.SPLITS, sample.DISHES):
        (root / split / name).mkdir(parents=True)
        for number in range(16 if split == "train" else 6):
            rng = np.random.default_rng([sample.SPLITS.index(split), number])
            picture = sample.photograph(name, rng, (96, 72))
            picture.save(root / split / name / f"{number:03}.jpg", quality=90)
    return root


@pytest.fixture
def data(dishes, tmp_path):
    return Path(shutil.copytree(dishes, tmp_path / "data"))


def test_every_planted_copy_is_found_and_nothing_else(data):
    planted = plant(data, num_each=10)
    assert found(data) == planted


@needs_photographs
def test_copies_are_found_among_thousands_of_photographs(tmp_path):
    """Nine million pairs of other photographs hold five of the same dish, seen by eye: four
    encoded anew, one cropped."""
    data = Path(shutil.copytree(FOOD5, tmp_path / "data"))
    known = found(data)
    planted = plant(data, num_each=200)
    seen = found(data)
    hits = {path for path, (first, _) in planted.items() if seen.get(path, ("",))[0] == first}
    exact = {path for path, (_, how) in planted.items() if how in ("bytes", "pixels")}
    assert exact <= hits
    assert len(hits - exact) >= 0.95 * len(planted.keys() - exact)
    assert len(known) <= 10
    assert seen.keys() - planted.keys() == known.keys()


def test_all_of_a_picture_are_one_group_led_by_a_training_image(data):
    file = data / "train" / "baklava" / "000.jpg"
    coarse = encoded(Image.open(file), quality=60)
    for split, name in (("test", "x"), ("test", "y"), ("train", "z")):
        (data / split / "baklava" / f"{name}.jpg").write_bytes(coarse)
    (group,) = audit(str(data)).groups
    assert group.first.path == "train/baklava/000.jpg"
    assert [copy.image.path for copy in group.copies] == [
        *("train/baklava/z.jpg", "test/baklava/x.jpg", "test/baklava/y.jpg")
    ]
    assert [copy.how for copy in group.copies] == [duplicates.ALTERED] * 3
    assert len(audit(str(data)).leaks()) == 2


def test_what_is_wrong_is_reported_with_a_remedy_and_ends_with_status_1(data, tmp_path):
    good = (data / "train" / "baklava" / "001.jpg").read_bytes()
    (data / "train" / "baklava" / "cut.jpg").write_bytes(good[: len(good) // 2])
    (data / "train" / "apple_pie" / "wrong.jpg").write_bytes(good)
    (data / "test" / "baklava" / "leak.jpg").write_bytes(good)
    Image.new("RGB", (90, 60), "red").save(data / "test" / "baklava" / "red.png")
    Image.open(io.BytesIO(good)).resize((20, 90)).save(data / "test" / "baklava" / "bar.png")
    for number in range(2, 13):
        (data / "train" / "beef_tartare" / f"{number:03}.jpg").unlink()
        (data / "train" / "beef_tartare" / f"{number:03}.txt").write_text("a note")
    told = tmp_path / "findings.json"
    ended = run_job(["-m", "dist_ft.audit", str(data), "--json", str(told)], 60)
    assert ended.status == 1, ended.output
    for line in (
        "FAIL  unreadable 1\n",
        "train/baklava/cut.jpg: ",
        "FAIL  leaks ",
        "test/baklava/leak.jpg is train/apple_pie/wrong.jpg (the same bytes)",
        "FAIL  labels ",
        "train/baklava/001.jpg is train/apple_pie/wrong.jpg (the same bytes)",
        "note  balance    5 (beef_tartare) to 17 (baklava) training images a class",
        "test/baklava/bar.png: 20 x 90 px",
        "test/baklava/red.png: 90 x 60 px",
        "-> the test accuracy is too good by them: remove them from one of the splits",
    ):
        assert line in ended.output, (line, ended.output)
    findings = json.loads(told.read_text())
    assert not findings["is_clean"]
    assert list(findings["unreadable"]) == ["train/baklava/cut.jpg"]
    assert ["train/apple_pie/wrong.jpg", "test/baklava/leak.jpg"] in findings["leaks"]
    assert ["train/apple_pie/wrong.jpg", "train/baklava/001.jpg"] in findings["conflicts"]
    assert list(findings["tiny"]) == list(findings["long"]) == ["test/baklava/bar.png"]
    assert list(findings["plain"]) == ["test/baklava/red.png"]
    assert findings["num_images"]["beef_tartare"] == {"train": 5, "test": 6}


def test_a_clean_data_set_ends_with_status_0(data):
    ended = run_job(["-m", "dist_ft.audit", str(data)], 60)
    assert ended.status == 0, ended.output
    assert "FAIL" not in ended.output and "note" not in ended.output
    assert ": 110 images in " in ended.output


def test_no_data_set_ends_with_status_2_and_a_message(tmp_path):
    ended = run_job(["-m", "dist_ft.audit", str(tmp_path / "nowhere")], 60)
    assert ended.status == 2
    assert "no such folder" in ended.output and "Traceback" not in ended.output


def test_a_report_that_cannot_be_written_is_said_so_before_anything_is_read(data, tmp_path):
    (tmp_path / "file").write_text("")
    for target, reason in ((tmp_path / "file" / "x", "cannot be written"), (data, "is a folder")):
        ended = run_job(["-m", "dist_ft.audit", str(data), "--json", str(target)], 60)
        assert ended.status == 2
        assert f"--json {target}: {reason}" in ended.output
        assert "images in" not in ended.output


def test_names_that_are_no_text_are_told_on_a_strict_terminal(data, tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "PYTHONIOENCODING", "utf-8:strict")
    file = os.fsencode(data / "train" / "baklava" / "000.jpg")
    copy = os.fsencode(data / "test" / "baklava") + b"/caf\xe9\n.jpg"
    shutil.copy(file, copy)
    told = tmp_path / "findings.json"
    ended = run_job(["-m", "dist_ft.audit", str(data), "--json", str(told)], 60)
    assert ended.status == 1
    assert "baklava/caf\\udce9\\n.jpg is train/baklava/000.jpg" in ended.output
    ((_, leaked),) = json.loads(told.read_text(encoding="utf-8"))["leaks"]
    assert os.fsencode(data / leaked) == copy


files = st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=8)


@given(train=files, test=files)
@settings(max_examples=60, deadline=None)
def test_leaks_are_the_test_files_whose_bytes_are_in_train(tmp_path_factory, train, test):
    root = tmp_path_factory.mktemp("leaks")
    for split, contents in (("train", train), ("test", test)):
        for number, content in enumerate([*contents, *contents]):  # an image a class at least
            path = root / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    pairs = find_leaks(scan(str(root)))
    assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in pairs)
    known = {path.read_bytes() for path in (root / "train").glob("*/*")}
    leaked = {str(path) for path in (root / "test").glob("*/*") if path.read_bytes() in known}
    assert sorted(test for _, test in pairs) == sorted(leaked)


def test_a_message_about_leaks_names_the_first_and_counts_the_rest():
    message = leak_message([(f"train/a/{n}.jpg", f"test/a/{n}.jpg") for n in range(7)])
    assert message.startswith("7 of the test images are training images too")
    assert "test/a/0.jpg is train/a/0.jpg" in message and "and 2 more" in message


pictures = arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(3)))


@given(pictures)
@settings(max_examples=60, deadline=None)
def test_a_picture_is_itself_and_its_mirror_image(pixels):
    mine, mirrored = sketch(pixels), sketch(np.ascontiguousarray(pixels[:, ::-1]))
    if mine.any():
        assert abs(similarity(mine, mine)[0] - 1) < 1e-4
        assert abs(similarity(mine, mirrored)[0] - 1) < 1e-2


def test_all_similar_pairs_of_thousands_are_found_across_tiles():
    rng = np.random.default_rng(0)
    sketches = rng.normal(size=(perceptual_hash.TILE[1] + 900, perceptual_hash.NUM_FINE**2)).astype(
        np.float32
    )
    last = len(sketches) - 1
    for index in range(0, 2000, 7):
        sketches[last - index] = sketches[index] + rng.normal(0, 0.1, len(sketches[0]))
    sketches[:, 0] = 0
    sketches /= np.linalg.norm(sketches, axis=1, keepdims=True)
    pairs = similar_pairs(sketches, 0.9)
    assert sorted(zip(*pairs)) == [(index, last - index) for index in range(0, 2000, 7)]
