"""food5/prepare.py: from every form of Food-101 the same folder, and no picture in both splits."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import itertools
import os
import signal
import socket
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

from dist_ft.diagnostics.dataset_audit import audit
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


def prepare(source, out, *flags, **environment):
    command = [sys.executable, str(FOOD5 / "prepare.py"), str(source), "--out", str(out)]
    return subprocess.run(
        [*command, *FLAGS, *map(str, flags)],
        env={**os.environ, **environment},
        **{"capture_output": True, "text": True, "timeout": 60},
    )


# Runs a script of food5 in which something befalls one of the moves in or out of a folder.
BEFALLEN = """
import os, runpy, signal, sys
number, deed, out, script = int(sys.argv[1]), *sys.argv[2:5]
move, sys.argv[:] = os.replace, sys.argv[4:]
def replace(source, target):
    global number
    if out in (os.path.dirname(source), os.path.dirname(target)):
        number -= 1
        if number == -1:
            exec(deed)
    move(source, target)
os.replace = replace
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


def befallen(number, deed, out, script, *words):
    """What comes of SCRIPT WORDS with `deed` in the place of a move; the first is number 0."""
    command = [sys.executable, "-c", BEFALLEN, number, deed, out, FOOD5 / script, *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)


def is_one_line(text):
    return text.count("\n") == 1 and text.endswith("\n")


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


def as_zip(files, root, top="food-101/food-101", compression=zipfile.ZIP_STORED):
    path = root / "archive.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
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
    said = "food5: interrupted; nothing was changed\n" if stop == signal.SIGINT else ""
    assert errors == said
    assert job.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert list(out.iterdir()) == []


def test_a_second_run_on_the_same_folder_says_so_and_leaves_the_first_alone(pictures, tmp_path):
    pipe, out = tmp_path / "slow.tar", tmp_path / "out"
    os.mkfifo(pipe)
    command = [sys.executable, str(FOOD5 / "prepare.py"), str(pipe), "--out", str(out), *FLAGS]
    source = as_tar(pictures, tmp_path)
    tar = source.read_bytes()
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with open(pipe, "wb") as writer:
        writer.write(tar[: len(tar) // 2])
        writer.flush()
        deadline = time.monotonic() + 30
        while not list(out.glob(".prepare-*/pool/*/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.02)
        before = {path.parent for path in out.rglob("*.jpg")}
        second = prepare(source, out, "--overwrite")
        after = {path.parent for path in out.rglob("*.jpg")}
        writer.write(tar[len(tar) // 2 :])
    _, errors = job.communicate(timeout=30)
    assert second.returncode == 1
    assert is_one_line(second.stderr) and f"{out}: another run" in second.stderr
    assert before and before <= after
    assert job.returncode == 0, errors
    assert prepare(source, out).returncode == 0


def make_old_and_new(root, names):
    """A folder that holds old files by these names, and what it would hold with new ones."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "old").write_bytes(b"old")
    return {f"{name}/new": b"new" for name in ("table", "test", "train")}


def replace_by_new(root):
    with load("sample").replacing(root, ("table", "test", "train"), ".work-") as beside:
        for name in ("table", "test", "train"):
            (beside / name).mkdir()
            (beside / name / "new").write_bytes(b"new")


@pytest.mark.parametrize("names", [(), ("train", "test"), ("train", "test", "table")])
@pytest.mark.parametrize("what", [OSError, KeyboardInterrupt, signal.SIGINT, signal.SIGTERM])
def test_all_is_replaced_or_nothing_whatever_befalls_a_move(tmp_path, monkeypatch, names, what):
    """An exception before a move, and a signal in it; of the last one it comes too late."""
    move, is_signal = os.replace, isinstance(what, signal.Signals)
    num_moves = len(names) + 3
    for number in range(num_moves):
        root = tmp_path / str(number)
        root.mkdir()
        new = make_old_and_new(root, names)
        old = tree(root)
        moves = itertools.count()

        def replace(source, target, number=number, moves=moves):
            if next(moves) == number:
                if not is_signal:
                    raise what("befallen")
                os.kill(os.getpid(), what)
            move(source, target)

        raised = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit}.get(what, what)
        with monkeypatch.context() as patch, pytest.raises(raised) as caught:
            patch.setattr(os, "replace", replace)
            replace_by_new(root)
        is_new = is_signal and number == num_moves - 1
        assert tree(root) == (new if is_new else old)
        assert not list(root.glob(".work-*"))
        if raised is KeyboardInterrupt:
            said = "the new images are in place" if is_new else "nothing was changed"
            assert str(caught.value) == f"interrupted; {said}"


def test_handlers_of_signals_are_given_back_and_ignored_ones_stay_ignored(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(number) for number in numbers]
        replace_by_new(tmp_path)
        assert [signal.getsignal(number) for number in numbers] == handlers
        with load("sample").held_signals() as heard:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) != handlers[1]
        assert heard == []
    finally:
        signal.signal(signal.SIGINT, before)


FULL = "raise OSError(28, 'No space left on device')"


@pytest.mark.parametrize(
    ("script", "last_words"),
    [
        ("prepare.py", "food5: [Errno 28] No space left on device\n"),
        ("sample.py", "no images were made in {out}: [Errno 28] No space left on device\n"),
    ],
)
def test_overwriting_that_fails_half_way_leaves_the_old_images(
    pictures, tmp_path, script, last_words
):
    out = tmp_path / "out"
    for path in ("train/cats/1.jpg", "train/dogs/2.jpg", "test/cats/3.jpg"):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(path.encode())
    before = tree(out)
    words = ["--out", out, "--overwrite"]
    if script == "prepare.py":
        words += [as_tar(pictures, tmp_path), *FLAGS]
    else:
        words += ["--train", 1, "--test", 1, "--side", 64, "--num-workers", 1]
    failed = befallen(3, FULL, out, script, *words)
    assert (failed.returncode, failed.stderr) == (1, last_words.format(out=out))
    assert tree(out) == before
    assert not list(out.glob(".*"))


def test_what_a_killed_run_had_taken_away_is_put_back_by_the_next(pictures, tmp_path):
    out, source = tmp_path / "out", as_tar(pictures, tmp_path)
    assert prepare(source, out).returncode == 0
    before = tree(out)
    words = (source, "--out", out, "--overwrite", *FLAGS, "--train", 4)
    for number in (1, 4, 5):  # one move made, all of the old taken and one put, all but the last
        killed = befallen(number, "os.kill(os.getpid(), 9)", out, "prepare.py", *words)
        assert killed.returncode == -9
        assert not (out / "train").exists()
        again = prepare(source, out)
        assert again.returncode == 0 and "verified" in again.stdout, again.stderr
        assert tree(out) == before and not list(out.glob(".*"))


def test_a_run_killed_between_two_moves_leaves_no_table_and_no_split_with_images_of_others(
    pictures, tmp_path
):
    out, source = tmp_path / "out", as_tar(pictures, tmp_path)
    mine = out / "train" / "cats" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    words = (source, "--out", out, "--overwrite", *FLAGS)
    killed = befallen(3, "os.kill(os.getpid(), 9)", out, "prepare.py", *words)
    assert killed.returncode == -9
    assert {path.name for path in out.glob("[!.]*")} == {"split.csv", "test"}
    refused = prepare(source, out)
    assert refused.returncode == 1 and f"{mine} exists" in refused.stderr
    assert tree(out) == {"train/cats/mine.jpg": b"mine"}
    assert [path.name for path in out.iterdir()] == ["train"]


def test_old_images_that_cannot_be_put_back_are_kept_and_named(pictures, tmp_path):
    out, source = tmp_path / "out", as_tar(pictures, tmp_path)
    assert prepare(source, out).returncode == 0
    before = tree(out)
    words = (source, "--out", out, "--overwrite", *FLAGS)
    failed = befallen(3, f"globals().update(number=0); {FULL}", out, "prepare.py", *words)
    (left,) = out.glob(".prepare-*")
    assert failed.returncode == 1
    assert is_one_line(failed.stderr) and f"move the rest back from {left}/old" in failed.stderr
    assert {path.name for path in (left / "old").iterdir()} == {"train", "test", "split.csv"}
    assert prepare(source, out).returncode == 0
    assert tree(out) == before and not left.exists()


HEADER = b"split,class,file,sha256\n"


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (b"", "it lacks split, class, file, sha256"),
        (b"split,class,name\ntrain,baklava,1.jpg\n", "it lacks file, sha256"),
        (HEADER + b"train,baklava,1.jpg,abc\ntest,bak", "it lacks file, sha256"),
        (HEADER + b"train,bakl\xe4va,1.jpg,abc\n", "'utf-8' codec can't decode byte 0xe4"),
        ((HEADER + b"train,baklava,1.jpg,abc\n").decode().encode("utf-16"), "'utf-8' codec"),
    ],
    ids=["empty", "columns", "cut", "latin-1", "utf-16"],
)
def test_a_damaged_table_is_named_with_the_remedy(tmp_path, table, what):
    (tmp_path / "train").mkdir()
    (tmp_path / "split.csv").write_bytes(table)
    refused = prepare(tmp_path / "absent.tar.gz", tmp_path)
    assert refused.returncode == 1
    assert is_one_line(refused.stderr)
    assert f"{tmp_path / 'split.csv'}: is damaged ({what}" in refused.stderr
    assert "--overwrite" in refused.stderr


@pytest.mark.parametrize("compression", ["ZIP_DEFLATED", "ZIP_LZMA", "ZIP_BZIP2"])
def test_a_damaged_zip_is_named(pictures, tmp_path, compression):
    files = {name: data for name, data in pictures.items() if "baklava" in name}
    source = as_zip(files, tmp_path, compression=getattr(zipfile, compression))
    data = bytearray(source.read_bytes())
    data[600:700] = bytes(100)  # of the first image
    source.write_bytes(data)
    broken = prepare(source, tmp_path / "out")
    assert broken.returncode == 1
    assert is_one_line(broken.stderr) and f"{source}: cannot be read (" in broken.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_no_regular_file_is_no_image(pictures, tmp_path, monkeypatch):
    source, out = as_folder(pictures, tmp_path), tmp_path / "out"
    monkeypatch.chdir(source / "images" / "baklava")  # a socket's name may not be long
    os.mkfifo("0000.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("0001.jpg")
        os.rename("1000.jpg", tmp_path / "elsewhere.jpg")
        os.symlink(tmp_path / "elsewhere.jpg", "1000.jpg")  # whose target is one
        made = prepare(source, out)
    assert made.returncode == 0, made.stderr
    assert len(tree(out)) == 1 + len(CLASSES) * (NUM_TRAIN + NUM_TEST)
    assert (out / "train/baklava/1000.jpg").read_bytes() == pictures["images/baklava/1000.jpg"]
    (out / "train/baklava/1000.jpg").unlink()
    os.mkfifo(out / "train/baklava/1000.jpg")
    wrong = prepare(source, out)
    assert wrong.returncode == 1 and "train/baklava/1000.jpg has changed" in wrong.stderr


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
@pytest.mark.parametrize("has_lists", [True, False])
def test_names_that_are_no_text_are_escaped(pictures, tmp_path, encoding, has_lists):
    crepe = os.fsdecode(b"cr\xeape")
    files, doubled = {}, copied(pictures, "images/baklava/1001.jpg", "images/baklava/1000.jpg")
    for name, data in doubled.items():
        own = os.fsencode(name).replace(b"baklava/1000", b"baklava/\xff\n\xc3\xa9")
        own = own.replace(b"baklava", os.fsencode(crepe))
        data = data.replace(b"baklava/", os.fsencode(f"{crepe}/"))
        if has_lists or own.startswith(b"images/"):
            files[os.fsdecode(own)] = data
    files[f"images/{crepe}/1002.jpg"] = b"no image"
    source, out = as_folder(files, tmp_path), tmp_path / os.fsdecode(b"out\xfe")
    flags = ["--classes", crepe, "beef_tartare", "--train", 4, "--test", 3]
    made = prepare(source, out, *flags, PYTHONIOENCODING=encoding)
    assert made.returncode == 0, made.stderr
    accent = "\u00e9" if encoding.startswith("utf-8") else "\\xe9"
    assert f"cr\\udceape/\\udcff\\n{accent}.jpg (" in made.stdout
    assert "  cr\\udceape/1002.jpg: " in made.stdout
    assert "out\\udcfe: 4 train and 3 test images" in made.stdout
    assert "\ncr" not in (out / "split.csv").read_text(encoding="utf-8")
    before = tree(out)
    again = prepare(source, out, *flags, PYTHONIOENCODING=encoding)
    assert again.returncode == 0 and "verified" in again.stdout, again.stderr
    assert tree(out) == before


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
