"""data.leakage: test images that are byte-identical to training images."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data.image_folder import scan
from dist_ft.data.leakage import find_leaks, leak_message

file_contents = st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=8)


@given(train=file_contents, test=file_contents)
@settings(max_examples=40, deadline=None)
def test_every_test_file_is_paired_with_an_identical_training_file(tmp_path_factory, train, test):
    root = tmp_path_factory.mktemp("leaks")
    for split, contents in (("train", train), ("test", test)):
        for number, content in enumerate([*contents, *contents]):  # at least one per class
            path = root / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    pairs = find_leaks(scan(str(root)))
    assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in pairs)
    in_train = {path.read_bytes() for path in (root / "train").glob("*/*")}
    leaked = [str(path) for path in (root / "test").glob("*/*") if path.read_bytes() in in_train]
    assert sorted(test for _, test in pairs) == sorted(leaked)


def test_images_of_val_are_compared_with_both_other_splits(tmp_path):
    contents = {"train": b"abcd", "val": b"efad", "test": b"ghfa"}
    for split, characters in contents.items():
        for number, character in enumerate(characters):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([character]))
    pairs = [
        tuple(str(Path(path).relative_to(tmp_path)) for path in pair)
        for pair in find_leaks(scan(str(tmp_path)))
    ]
    assert sorted(pairs) == [
        ("train/a/0.jpg", "test/b/3.jpg"),
        ("train/a/0.jpg", "val/a/2.jpg"),
        ("train/b/3.jpg", "val/b/3.jpg"),
        ("val/b/1.jpg", "test/a/2.jpg"),
    ]


def test_an_unreadable_file_is_skipped(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.jpg").write_bytes(name.encode())
    dataset = scan(str(tmp_path))
    os.replace(tmp_path / "train/a/0.jpg", tmp_path / "elsewhere")
    (tmp_path / "train/a/0.jpg").mkdir()
    os.truncate(tmp_path / "test/a/0.jpg", os.stat(tmp_path / "train/a/0.jpg").st_size)
    pairs = find_leaks(dataset)
    assert pairs == [(str(tmp_path / "train/b/0.jpg"), str(tmp_path / "test/b/0.jpg"))]


def test_the_message_names_the_first_pairs_and_counts_the_rest():
    message = leak_message([(f"train/a/{n}.jpg", f"test/a/{n}.jpg") for n in range(7)])
    assert message.startswith("7 images are in two splits")
    assert "test/a/0.jpg is train/a/0.jpg" in message and "and 2 more" in message
