"""food5/prepare.py: from every form of Food-101 the same folder, and no picture in both splits."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import itertools
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dist_ft.audit import audit
from tests.conftest import REPO

FOOD5 = REPO / "food5"
CLASSES = ["baklava", "beef_tartare"]
NUM_TRAIN, NUM_TEST = 6, 3  # images of a class on Food-101's lists
FLAGS = ["--classes", *CLASSES, "--train", "5", "--test", "4"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOOD5 / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(source, out, *flags):
    command = [sys.executable, str(FOOD5 / "prepare.py"), str(source), "--out", str(out)]
    return subprocess.run(
        [*command, *FLAGS, *map(str, flags)], capture_output=True, text=True, timeout=60
    )


def tree(root):
    """The bytes of each file, by its path."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def pictures():
    """Food-101 in small: of each class six images on its training list and three on its test list,
    a class that nobody asks for, and both lists."""
    photograph = load("sample").photograph
    files, lists = {}, {"train": [], "test": []}
    for label, name in enumerate([*CLASSES, "apple_pie"]):
        for number in range(NUM_TRAIN + NUM_TEST):
            picture = photograph(name, np.random.default_rng([label, number]), (96, 72))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=90)
            files[f"images/{name}/{1000 + number}.jpg"] = buffer.getvalue()
            split = "train" if number < NUM_TRAIN else "test"
            lists[split].append(f"{name}/{1000 + number}")
    for split, names in lists.items():
        files[f"meta/{split}.txt"] = ("\r\n".join(names) + "\n").encode()
    return files


def as_folder(files, root):
    for name, data in files.items():
        path = root / "food-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "food-101"


def as_tar(files, root, top="food-101"):
    path = root / "food-101.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_zip(files, root, top="food-101/food-101"):
    path = root / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{top}/{name}", data)
    return path


def copied(files, target, source):
    """Another JPEG of a picture in the place of one."""
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(files[source]))).save(buffer, "JPEG", quality=60)
    return {**files, target: buffer.getvalue()}


def test_a_tar_a_folder_and_a_zip_give_the_same_images_by_the_lists(pictures, tmp_path):
    outs = []
    for form in (as_tar, as_folder, as_zip):
        outs.append(tmp_path / form.__name__)
        made = prepare(form(pictures, tmp_path), outs[-1])
        assert made.returncode == 0, made.stderr
    first, *others = map(tree, outs)
    assert all(other == first for other in others)
    for name, number in itertools.product(CLASSES, range(NUM_TRAIN + NUM_TEST)):
        split = "train" if number < 5 else "test"
        path = f"{name}/{1000 + number}.jpg"
        assert first.pop(f"{split}/{path}") == pictures[f"images/{path}"]
    assert list(first) == ["split.csv"]


def test_the_table_has_the_split_and_hash_of_each_image(pictures, tmp_path):
    out = tmp_path / "out"
    prepare(as_tar(pictures, tmp_path), out)
    with open(out / "split.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(CLASSES) * (NUM_TRAIN + NUM_TEST)
    for row in rows:
        data = (out / row["split"] / row["class"] / row["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_without_lists_the_split_is_drawn_by_the_seed(pictures, tmp_path):
    images = {name: data for name, data in pictures.items() if name.startswith("images/")}
    source = as_zip(images, tmp_path, top="food41")
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        assert prepare(source, tmp_path / name, "--seed", seed).returncode == 0
    one, two, three = (tree(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() != three.keys()


def test_a_second_call_verifies_and_names_what_has_changed(pictures, tmp_path):
    out, absent = tmp_path / "out", tmp_path / "absent.tar.gz"
    prepare(as_tar(pictures, tmp_path), out)
    before = tree(out)
    again = prepare(absent, out)
    assert again.returncode == 0, again.stderr
    assert "verified by split.csv" in again.stdout
    assert tree(out) == before
    other = prepare(absent, out, "--train", 4)
    assert other.returncode == 1
    assert "not what is asked for" in other.stderr and "--overwrite" in other.stderr
    (out / "train" / "baklava" / "1000.jpg").write_bytes(b"changed")
    (out / "train" / "baklava" / "1001.jpg").unlink()
    (out / "test" / "baklava" / "new.jpg").write_bytes(b"new")
    wrong = prepare(absent, out)
    assert wrong.returncode == 1
    for what in ("1000.jpg has changed", "1001.jpg is missing", "test/baklava/new.jpg was added"):
        assert what in wrong.stderr
    mended = prepare(as_tar(pictures, tmp_path), out, "--overwrite")
    assert mended.returncode == 0, mended.stderr
    assert tree(out) == before


def test_other_images_are_replaced_only_when_asked(pictures, tmp_path):
    out = tmp_path / "out"
    mine = out / "train" / "cats" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    source = as_tar(pictures, tmp_path)
    refused = prepare(source, out)
    assert refused.returncode == 1
    assert str(mine) in refused.stderr and "--overwrite" in refused.stderr
    assert tree(out) == {"train/cats/mine.jpg": b"mine"}
    assert prepare(source, out, "--overwrite").returncode == 0
    assert not mine.exists()


def test_a_copy_is_left_out_where_others_remain(pictures, tmp_path):
    files = copied(pictures, "images/baklava/1000.jpg", "images/baklava/1007.jpg")
    out = tmp_path / "out"
    made = prepare(as_tar(files, tmp_path), out, "--train", 4)
    assert made.returncode == 0, made.stderr
    assert "baklava/1000.jpg (left out), baklava/1007.jpg (test)" in made.stdout
    paths = tree(out)
    assert "test/baklava/1007.jpg" in paths and "train/baklava/1000.jpg" not in paths
    assert "test/baklava/1000.jpg" not in paths
    assert sum(path.startswith("train/baklava/") for path in paths) == 4


@pytest.mark.parametrize("original", ["baklava/1007.jpg", "beef_tartare/1008.jpg"])
def test_where_all_images_are_needed_copies_go_to_the_same_split(pictures, tmp_path, original):
    """Of a picture in one class, and of one with two labels."""
    files = copied(pictures, "images/baklava/1000.jpg", f"images/{original}")
    out = tmp_path / "out"
    made = prepare(as_tar(files, tmp_path), out)
    assert made.returncode == 0, made.stderr
    assert {f"test/{original}", "test/baklava/1000.jpg"} <= tree(out).keys()
    findings = audit(str(out))
    assert len(findings.pairs()) == 1 and not findings.leaks()


def test_a_leak_that_cannot_be_helped_is_named_and_may_be_allowed(pictures, tmp_path):
    """All three test images and all six training images: one picture would be in both."""
    files = copied(pictures, "images/baklava/1000.jpg", "images/baklava/1007.jpg")
    source, out = as_tar(files, tmp_path), tmp_path / "out"
    own_split = ["--train", 6, "--test", 3]
    refused = prepare(source, out, *own_split)
    assert refused.returncode == 1
    assert "baklava" in refused.stderr and "--allow-leak" in refused.stderr
    assert "baklava/1000.jpg (test), baklava/1007.jpg (test)" in refused.stderr
    assert list(out.iterdir()) == []
    allowed = prepare(source, out, *own_split, "--allow-leak")
    assert allowed.returncode == 0, allowed.stderr
    assert "test/baklava/1007.jpg is train/baklava/1000.jpg (mirrored" in allowed.stdout


def test_an_archive_writes_nowhere_else_and_only_what_is_needed(pictures, tmp_path):
    evil = {
        "../../images/../outside.jpg": b"x",
        "images/baklava/../../outside.jpg": b"x",
        "images/baklava/.hidden.jpg": b"x",
        "images/../baklava.jpg": b"x",
        "images/baklava/run.sh": b"x",
    }
    for form in (as_tar, as_zip):
        root = tmp_path / form.__name__
        root.mkdir()
        made = prepare(form({**pictures, **evil}, root, top="/a/.."), root / "out")
        assert made.returncode == 0, made.stderr
        there = {path.name for path in root.rglob("*") if path.is_file()}
        assert not there & {"outside.jpg", ".hidden.jpg", "baklava.jpg", "run.sh"}
        assert len(tree(root / "out")) == 1 + len(CLASSES) * (NUM_TRAIN + NUM_TEST)


def test_unreadable_images_are_left_out_and_named(pictures, tmp_path):
    files = {**pictures, "images/baklava/1002.jpg": pictures["images/baklava/1002.jpg"][:900]}
    made = prepare(as_tar(files, tmp_path), tmp_path / "out", "--train", 4)
    assert made.returncode == 0, made.stderr
    assert "1 unreadable, left out\n  baklava/1002.jpg: " in made.stdout
    short = prepare(as_tar(files, tmp_path), tmp_path / "more")
    assert short.returncode == 1
    assert "baklava has 3 of 4 for test" in short.stderr and "--test" in short.stderr


@pytest.mark.parametrize("form", [as_tar, as_zip])
def test_half_an_archive_and_missing_classes_are_told_and_leave_nothing(pictures, tmp_path, form):
    source, out = form(pictures, tmp_path), tmp_path / "out"
    lacking = prepare(source, out, "--classes", "baklava", "pizza")
    assert lacking.returncode == 1
    assert "no images of pizza; it has apple_pie, baklava" in lacking.stderr
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    half = prepare(source, out)
    assert half.returncode == 1
    assert "cannot be read" in half.stderr and "Traceback" not in half.stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_and_a_killed_one_nothing_for_long(
    pictures, tmp_path, stop
):
    pipe, out = tmp_path / "slow.tar", tmp_path / "out"
    os.mkfifo(pipe)  # never comes to an end
    command = [sys.executable, str(FOOD5 / "prepare.py"), str(pipe), "--out", str(out), *FLAGS]
    tar = as_tar(pictures, tmp_path).read_bytes()
    for number in (signal.SIGKILL, stop):
        job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with open(pipe, "wb") as writer:
            writer.write(tar[: len(tar) // 2])
            writer.flush()
            deadline = time.monotonic() + 30
            while not list(out.glob(".prepare-*/pool/*/*.jpg")) and time.monotonic() < deadline:
                time.sleep(0.02)
            job.send_signal(number)
            _, errors = job.communicate(timeout=30)
        assert "Traceback" not in errors
    assert job.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert list(out.iterdir()) == []


@given(
    firsts=st.lists(st.integers(0, 11), min_size=14, max_size=14),
    num_train=st.integers(1, 5),
    num_test=st.integers(1, 4),
    has_lists=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_picture_is_in_two_splits_whatever_the_copies(firsts, num_train, num_test, has_lists):
    division = load("divide")
    images = [f"{'ab'[n // 7]}/{n}.jpg" for n in range(14)]
    leader = {images[n]: images[firsts.index(firsts[n])] for n in range(14)}
    first_of = {i: f for i, f in leader.items() if list(leader.values()).count(f) > 1}
    lists = {"train": [*images[:4], *images[7:11]], "test": [*images[4:7], *images[11:]]}
    classes = {
        name: division.pictures(
            [i for i in images if i[0] == name],
            *(lists if has_lists else {}, first_of, num_train + num_test, 0),
        )
        for name in "ab"
    }
    counts = {"train": num_train, "test": num_test}
    split_of = division.divide(classes, first_of, counts)
    splits = {}
    for image, split in split_of.items():
        assert splits.setdefault(leader[image], split) == split
        assert split == "test" or not has_lists or image in lists["train"]
    for name, split in itertools.product("ab", counts):
        taken = [i for i, s in split_of.items() if i[0] == name and s == split]
        assert len(taken) <= counts[split]
    if not first_of:
        assert len(split_of) == 2 * (min(num_train, 4 if has_lists else 7) + num_test)
