"""food5/prepare.py builds the same folder from every form of Food-101, without leaks."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import prepare as script
import pytest
import split_table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sample import photograph
from split import Request, divide

from dist_ft.diagnostics.dataset_audit import audit_dataset
from dist_ft.errors import UserError
from dist_ft.recipe_settings import DataSettings
from tests.conftest import REPO
from tests.images import read_tree

FOOD5 = REPO / "food5"

CLASSES = ["baklava", "beef_tartare"]
NUM_TRAIN, NUM_TEST = 6, 3  # images per class on Food-101's lists
NUM_FILES = len(CLASSES) * (NUM_TRAIN + NUM_TEST) + 1  # of a built folder, with split.csv


def prepare(source: Path, out: Path, classes=CLASSES, train=5, test=4, seed=0, **flags) -> str:
    flags = {"allow_leak": False, "overwrite": False, **flags}
    counts = {"train": train, "test": test}
    request = Request(list(classes), counts, seed, flags["allow_leak"])
    return script.prepare(source, out, request, flags["overwrite"])


def command(source: Path, out: Path, *flags: object) -> list[str]:
    arguments = [source, "--out", out, "--classes", *CLASSES, "--train", 5, "--test", 4, *flags]
    return [sys.executable, str(FOOD5 / "prepare.py"), *map(str, arguments)]


def run_script(source: Path, out: Path, *flags: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(source, out, *flags),
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="session")
def food101() -> dict[str, bytes]:
    """A small Food-101: per class six images on the training list and three on the test list, with
    a class that is not used."""
    files, lists = {}, {"train": [], "test": []}
    for label, name in enumerate([*CLASSES, "apple_pie"]):
        for number in range(NUM_TRAIN + NUM_TEST):
            buffer = io.BytesIO()
            photograph(name, np.random.default_rng([label, number]), (96, 72)).save(buffer, "JPEG")
            files[f"images/{name}/{1000 + number}.jpg"] = buffer.getvalue()
            split = "train" if number < NUM_TRAIN else "test"
            lists[split].append(f"{name}/{1000 + number}")
    for split, names in lists.items():
        files[f"meta/{split}.txt"] = ("\r\n".join(names) + "\n").encode()
    return files


def as_folder(files: dict[str, bytes], root: Path) -> Path:
    for name, data in files.items():
        path = root / "food-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root / "food-101"


def as_tar(files: dict[str, bytes], root: Path, top: str = "food-101") -> Path:
    path = root / "food-101.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_zip(
    files: dict[str, bytes], root: Path, top: str = "food41", compression: int = zipfile.ZIP_STORED
) -> Path:
    path = root / "archive.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(f"{top}/{name}", data)
    return path


def with_copy(files: dict[str, bytes], target: str, source: str) -> dict[str, bytes]:
    """Replaces `target` by a mirrored and re-encoded copy of `source`."""
    buffer = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(files[source]))).save(buffer, "JPEG", quality=60)
    return {**files, target: buffer.getvalue()}


def test_a_tar_a_folder_and_a_zip_give_the_split_of_the_lists(food101, tmp_path):
    trees = []
    for form in (as_tar, as_folder, as_zip):
        out = tmp_path / f"from_{form.__name__}"
        prepare(form(food101, tmp_path), out)
        trees.append(read_tree(out))
    assert trees[0] == trees[1] == trees[2]
    table = trees[0].pop("split.csv").decode()
    expected = {
        f"{'train' if number < 5 else 'test'}/{name}/{1000 + number}.jpg": food101[
            f"images/{name}/{1000 + number}.jpg"
        ]
        for name, number in itertools.product(CLASSES, range(NUM_TRAIN + NUM_TEST))
    }
    assert trees[0] == expected
    rows = {
        f"{row['split']}/{row['class']}/{row['file']}": row["sha256"]
        for row in csv.DictReader(io.StringIO(table))
    }
    assert rows == {path: hashlib.sha256(data).hexdigest() for path, data in expected.items()}


def test_without_lists_the_split_is_drawn_by_the_seed(food101, tmp_path):
    images = {name: data for name, data in food101.items() if name.startswith("images/")}
    source = as_zip(images, tmp_path)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare(source, tmp_path / name, seed=seed)
    one, two, three = (read_tree(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() != three.keys()


def test_a_second_run_verifies_and_names_what_has_changed(food101, tmp_path):
    out, absent = tmp_path / "out", tmp_path / "absent.tar.gz"
    source = as_tar(food101, tmp_path)
    prepare(source, out)
    before = read_tree(out)
    assert prepare(absent, out).startswith("verified by split.csv")
    assert read_tree(out) == before
    with pytest.raises(UserError, match=r"not what was requested.*--overwrite"):
        prepare(absent, out, train=4)
    (out / "train" / "baklava" / "1000.jpg").write_bytes(b"changed")
    (out / "train" / "baklava" / "1001.jpg").unlink()
    (out / "test" / "baklava" / "new.jpg").write_bytes(b"new")
    with pytest.raises(UserError) as caught:
        prepare(absent, out)
    for problem in ("1000.jpg has changed", "1001.jpg is missing", "baklava/new.jpg was added"):
        assert problem in str(caught.value)
    prepare(source, out, overwrite=True)
    assert read_tree(out) == before


def test_other_images_are_replaced_only_with_overwrite(food101, tmp_path):
    source, out = as_tar(food101, tmp_path), tmp_path / "out"
    existing = out / "train" / "cats" / "existing.jpg"
    existing.parent.mkdir(parents=True)
    existing.write_bytes(b"existing")
    with pytest.raises(UserError, match=rf"{existing} exists; .*--overwrite"):
        prepare(source, out)
    assert read_tree(out) == {"train/cats/existing.jpg": b"existing"}
    prepare(source, out, overwrite=True)
    assert not existing.exists()


@pytest.mark.parametrize("lost", ["train", "test"])
def test_a_lost_split_is_built_again_unless_other_images_were_changed(food101, tmp_path, lost):
    source, out = as_tar(food101, tmp_path), tmp_path / "out"
    prepare(source, out)
    before = read_tree(out)
    shutil.rmtree(out / lost)
    assert prepare(source, out).startswith("built from")
    assert read_tree(out) == before
    shutil.rmtree(out / lost)
    changed = next((out / ({"train", "test"} - {lost}).pop()).rglob("*.jpg"))
    changed.write_bytes(b"edited")
    with pytest.raises(UserError, match=r"exists; .*--overwrite"):
        prepare(source, out)
    assert changed.read_bytes() == b"edited"


def test_a_copy_is_left_out_if_there_are_enough_other_images(food101, tmp_path, capsys):
    files = with_copy(food101, "images/baklava/1000.jpg", "images/baklava/1007.jpg")
    prepare(as_tar(files, tmp_path), tmp_path / "out", train=4)
    assert "baklava/1000.jpg (left out), baklava/1007.jpg (test)" in capsys.readouterr().out
    paths = read_tree(tmp_path / "out")
    assert not any("baklava/1000.jpg" in path for path in paths)
    assert "test/baklava/1007.jpg" in paths
    assert sum(path.startswith("train/baklava/") for path in paths) == 4


@pytest.mark.parametrize("original", ["baklava/1007.jpg", "beef_tartare/1008.jpg"])
def test_copies_that_are_needed_go_to_the_same_split(food101, tmp_path, original):
    """Copies within a class, and in two classes."""
    files = with_copy(food101, "images/baklava/1000.jpg", f"images/{original}")
    out = tmp_path / "out"
    prepare(as_tar(files, tmp_path), out)
    assert {f"test/{original}", "test/baklava/1000.jpg"} <= read_tree(out).keys()
    audit = audit_dataset(DataSettings(data=str(out)))
    assert len(audit.pairs) == 1 and not audit.leaks


def test_an_unavoidable_leak_is_named_and_may_be_allowed(food101, tmp_path):
    """Needs all three test images and all six training images, two of which are copies."""
    files = with_copy(food101, "images/baklava/1000.jpg", "images/baklava/1007.jpg")
    source, out = as_tar(files, tmp_path), tmp_path / "out"
    with pytest.raises(UserError) as caught:
        prepare(source, out, train=6, test=3)
    assert "baklava/1000.jpg (test), baklava/1007.jpg (test)" in str(caught.value)
    assert "--allow-leak" in str(caught.value)
    assert list(out.iterdir()) == []
    prepare(source, out, train=6, test=3, allow_leak=True)
    (leak,) = audit_dataset(DataSettings(data=str(out))).leaks
    assert leak.paths == ["train/baklava/1000.jpg", "test/baklava/1007.jpg"]


@pytest.mark.parametrize("form", [as_tar, as_zip])
def test_an_archive_cannot_write_outside_the_folder(food101, tmp_path, form):
    evil = {
        "../../images/../outside.jpg": b"x",
        "images/baklava/../../outside.jpg": b"x",
        "images/baklava/.hidden.jpg": b"x",
        "images/../baklava.jpg": b"x",
        "images/baklava/run.sh": b"x",
    }
    prepare(form({**food101, **evil}, tmp_path, top="/a/.."), tmp_path / "out")
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not names & {"outside.jpg", ".hidden.jpg", "baklava.jpg", "run.sh"}
    assert len(read_tree(tmp_path / "out")) == NUM_FILES


def test_unreadable_images_are_left_out_and_named(food101, tmp_path, capsys):
    files = {**food101, "images/baklava/1002.jpg": food101["images/baklava/1002.jpg"][:900]}
    source = as_tar(files, tmp_path)
    prepare(source, tmp_path / "out", train=4)
    assert "1 unreadable images, left out\n  baklava/1002.jpg: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"baklava has 3 of 4 images for test; .*--test"):
        prepare(source, tmp_path / "more")


def test_a_missing_class_is_named_and_nothing_is_left(food101, tmp_path):
    with pytest.raises(UserError, match="no images of pizza; it has apple_pie, baklava"):
        prepare(as_tar(food101, tmp_path), tmp_path / "out", classes=["baklava", "pizza"])
    assert list((tmp_path / "out").iterdir()) == []


COMPRESSIONS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_damaged_archive_is_named_and_nothing_is_left(food101, tmp_path, compression, is_cut):
    files = {name: data for name, data in food101.items() if "baklava" in name}
    if compression is None:
        source = as_tar(files, tmp_path)
    else:
        source = as_zip(files, tmp_path, compression=compression)
    data = source.read_bytes()
    if is_cut:
        source.write_bytes(data[: len(data) // 2])
    else:
        source.write_bytes(data[:600] + bytes(100) + data[700:])  # in the first image
    with pytest.raises(UserError, match=rf"{source}: cannot be read \("):
        prepare(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


HEADER = b"split,class,file,sha256\n"


@pytest.mark.parametrize(
    "table, problem",
    [
        (b"", "is damaged"),
        (b"split,class,name\ntrain,baklava,1.jpg\n", r"is damaged \(no file, sha256\)"),
        (HEADER + b"train,baklava,1.jpg,abc\ntest,bak", r"is damaged \(no file, sha256\)"),
        ((HEADER + b"train,baklava,1.jpg,abc\n").decode().encode("utf-16"), "is damaged"),
        (HEADER + b"train,bakl\xe4va,1.jpg,abc\n", "is missing"),
    ],
    ids=["empty", "columns", "cut", "utf-16", "latin-1"],
)
def test_a_damaged_table_is_named_with_the_remedy(tmp_path, table, problem):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "split.csv").write_bytes(table)
    with pytest.raises(UserError, match=rf"{problem}.*--overwrite"):
        prepare(tmp_path / "absent.tar.gz", tmp_path)


def test_a_copy_whose_names_have_another_unicode_form_is_the_same(tmp_path):
    composed, of_a_mac = tmp_path / "caf\u00e9/data", tmp_path / "copy"
    for split, class_name, number in itertools.product(
        ("train", "test"), ("caf\u00e9", "tea"), "12"
    ):
        path = f"{split}/{class_name}/cr\u00e8me {number}.jpg"
        copy = unicodedata.normalize("NFD", path)
        assert copy != path
        for file in (composed / path, of_a_mac / copy):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(path)
    split_table.write(composed)
    shutil.copy(composed / "split.csv", of_a_mac)
    request = Request(["cafe\u0301", "tea"], {"train": 2, "test": 2}, 0, False)
    for root in (composed, of_a_mac):
        split_table.verify(root, request)
        (root / "test/tea" / "new.jpg").touch()
        assert not split_table.is_part(root)


def test_only_regular_files_and_links_to_them_are_images(food101, tmp_path, monkeypatch):
    source, out = as_folder(food101, tmp_path), tmp_path / "out"
    monkeypatch.chdir(source / "images" / "baklava")  # the path of a socket must be short
    os.mkfifo("0000.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("0001.jpg")
        os.rename("1000.jpg", tmp_path / "elsewhere.jpg")
        os.symlink(tmp_path / "elsewhere.jpg", "1000.jpg")
        prepare(source, out)
    assert len(read_tree(out)) == NUM_FILES
    assert (out / "train/baklava/1000.jpg").read_bytes() == food101["images/baklava/1000.jpg"]
    (out / "train/baklava/1000.jpg").unlink()
    os.mkfifo(out / "train/baklava/1000.jpg")
    with pytest.raises(UserError, match=r"train/baklava/1000\.jpg has changed"):
        prepare(source, out)


@pytest.mark.parametrize("has_lists", [True, False])
def test_file_names_that_are_not_utf8_are_kept_and_shown_escaped(food101, tmp_path, has_lists):
    class_name = os.fsdecode(b"cr\xeape")
    files = {}
    for name, data in food101.items():
        path = os.fsencode(name).replace(b"baklava/1000", b"baklava/\xff\n\xc3\xa9")
        path = path.replace(b"baklava", os.fsencode(class_name))
        if has_lists or name.startswith("images/"):
            files[os.fsdecode(path)] = data.replace(b"baklava/", os.fsencode(f"{class_name}/"))
    files[f"images/{class_name}/1002.jpg"] = b"not an image"
    source, out = as_folder(files, tmp_path), tmp_path / os.fsdecode(b"out\xfe")
    flags = ["--classes", class_name, "beef_tartare", "--train", 4, "--test", 3]
    made = run_script(source, out, *flags)
    assert made.returncode == 0, made.stderr
    assert "  cr\\udceape/1002.jpg: " in made.stdout
    assert "out\\udcfe: 4 train and 3 test images" in made.stdout
    again = run_script(source, out, *flags)
    assert again.returncode == 0 and "verified" in again.stdout, again.stderr


def test_the_command_line_reports_errors_in_one_line(tmp_path):
    failed = run_script(tmp_path / "absent.tar.gz", tmp_path / "out")
    assert failed.returncode == 1
    assert failed.stderr.startswith("food5: ") and failed.stderr.count("\n") == 1
    assert "no such file or folder; pass --download, or download Food-101 from" in failed.stderr


# Runs that are stopped or meet another one -------------------------------------------------------


@contextmanager
def half_built(food101, tmp_path, out):
    """Yields a process that has read half of an archive and waits for the rest, which it gets at
    the end if it still runs."""
    pipe = tmp_path / "slow.tar"
    if not pipe.exists():
        os.mkfifo(pipe)
    tar = as_tar(food101, tmp_path).read_bytes()
    job = subprocess.Popen(command(pipe, out), stderr=subprocess.PIPE, text=True)
    with open(pipe, "wb") as writer:
        writer.write(tar[: len(tar) // 2])
        writer.flush()
        deadline = time.monotonic() + 60
        while not list(out.glob(".prepare-*/pool/*/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield job
        if job.poll() is None:
            writer.write(tar[len(tar) // 2 :])


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_leaves_nothing_and_removes_what_a_killed_one_left(
    food101, tmp_path, number, status
):
    out = tmp_path / "out"
    with half_built(food101, tmp_path, out) as killed:
        killed.kill()
        killed.wait()
    assert list(out.glob(".prepare-*"))
    with half_built(food101, tmp_path, out) as stopped:
        stopped.send_signal(number)
        _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == status
    assert "Traceback" not in errors
    assert list(out.iterdir()) == []


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_one_finishes(food101, tmp_path):
    out = tmp_path / "out"
    with half_built(food101, tmp_path, out) as first, pytest.raises(UserError, match="another run"):
        prepare(tmp_path / "food-101.tar.gz", out, overwrite=True)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert len(read_tree(out)) == NUM_FILES


# The split ---------------------------------------------------------------------------------------


@given(
    firsts=st.lists(st.integers(0, 11), min_size=14, max_size=14),
    num_train=st.integers(1, 5),
    num_test=st.integers(1, 4),
    has_lists=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_no_picture_is_in_two_splits_whatever_the_copies(firsts, num_train, num_test, has_lists):
    images = [f"{'ab'[n // 7]}/{n}.jpg" for n in range(14)]
    picture_of = {images[n]: images[firsts.index(firsts[n])] for n in range(14)}
    first_of = {i: f for i, f in picture_of.items() if list(picture_of.values()).count(f) > 1}
    lists = {"train": [*images[:4], *images[7:11]], "test": [*images[4:7], *images[11:]]}
    counts = {"train": num_train, "test": num_test}
    by_class = {name: [image for image in images if image[0] == name] for name in "ab"}
    split_of = divide(by_class, lists if has_lists else {}, first_of, counts, seed=0)
    splits = {}
    for image, split in split_of.items():
        assert splits.setdefault(picture_of[image], split) == split
        assert split == "test" or not has_lists or image in lists["train"]
    for name, split in itertools.product("ab", counts):
        used = [image for image, s in split_of.items() if image[0] == name and s == split]
        assert len(used) <= counts[split]
    if not first_of:
        assert len(split_of) == 2 * (min(num_train, 4 if has_lists else 7) + num_test)
