"""data.file_list: any label for any path, from CSV and text files."""

from __future__ import annotations

import os
import shutil
import unicodedata

import pytest

from dist_ft.config import Config
from dist_ft.data import file_list, image_folder
from dist_ft.data.dataset import DatasetError
from dist_ft.settings import ConfigError
from tests.images import make_folder


@pytest.fixture
def root(tmp_path):
    """Three training and two test images of two classes."""
    return make_folder(tmp_path / "data", train=[2, 1], test=[1, 1], side=16)


@pytest.fixture
def lists(root, tmp_path):
    """Writes lists of the given texts next to the folder; returns the data set."""

    def read(suffix=".txt", **texts):
        paths = {name: tmp_path / f"{name}{suffix}" for name in texts}
        for name, text in texts.items():
            data = text if isinstance(text, bytes) else text.encode("utf-8")
            paths[name].write_bytes(data)
        return file_list.read(root, paths)

    return read


TRAIN = "train/class_a/000.jpg a\ntrain/class_b/000.jpg b\ntrain/class_a/001.jpg a\n"
TEST = "test/class_b/000.jpg b\n"


def test_a_list_of_a_folder_has_its_images_labels_and_bytes(root, lists):
    expected = image_folder.scan(str(root))

    def lines(name, split):
        labels = (expected.classes[label] for label in split.labels)
        return "\n".join(f"{name}/{p}\t{label}" for p, label in zip(split.paths, labels))

    dataset = lists(train=lines("train", expected.train), test=lines("test", expected.test))
    assert dataset.classes == expected.classes
    for split, of_folder in ((dataset.train, expected.train), (dataset.test, expected.test)):
        assert split.labels == of_folder.labels
        assert [split.read(n) for n in range(len(split))] == [
            of_folder.read(n) for n in range(len(of_folder))
        ]


@pytest.mark.parametrize(
    "suffix, text",
    [
        (".txt", TRAIN),
        (".lst", TRAIN.replace(" ", "\t")),
        (".txt", "path label\r\n" + TRAIN.replace("\n", "\r\n\r\n")),
        (".csv", TRAIN.replace(" ", ",")),
        (".CSV", "Path,Label\r\n" + TRAIN.replace(" ", ", ").replace("\n", "\r\n")),
        (".csv", "label,n,path\na,1,train/class_a/000.jpg\nb,2,train/class_b/000.jpg\n"
         '"a",3,"train/class_a/001.jpg"'),
        (".csv", b"\xef\xbb\xbf" + TRAIN.replace(" ", ",").encode()),
    ],
)  # fmt: skip
def test_all_formats_give_the_same_data_set(lists, suffix, text):
    dataset = lists(suffix, train=text)
    assert dataset.classes == ("a", "b")
    assert dataset.train.labels == (0, 0, 1)
    assert dataset.train.paths[1:] == ("train/class_a/001.jpg", "train/class_b/000.jpg")


def test_the_order_of_the_lines_does_not_matter_and_the_labels_do(lists):
    first = lists(train=TRAIN)
    reversed_lines = lists(train="\n".join(reversed(TRAIN.splitlines())))
    assert first.train.fingerprint() == reversed_lines.train.fingerprint()
    relabeled = lists(train=TRAIN.replace("001.jpg a", "001.jpg b"))
    assert relabeled.train.labels == (0, 1, 1)
    assert first.train.fingerprint() != relabeled.train.fingerprint()


def test_integer_labels_are_sorted_by_value(lists):
    numbered = TRAIN.replace(" a", " 10").replace(" b", " 9")
    dataset = lists(train=numbered, test="test/class_a/000.jpg 10")
    assert dataset.classes == ("9", "10")
    assert dataset.test.labels == (1,)


def test_names_may_have_spaces_commas_and_any_unicode_form(root, lists):
    name = "cr\u00e8me, br\u00fbl\u00e9e 1.jpg"
    shutil.copy(root / "train/class_a/000.jpg", root / unicodedata.normalize("NFD", name))
    dataset = lists(
        ".csv",
        train=f'"{name}","two, words"\ntrain/class_b/000.jpg,cafe\u0301\n',
        test="test/class_a/000.jpg,caf\u00e9",
    )
    assert dataset.classes == ("caf\u00e9", "two, words")
    assert dataset.train.read(1) == (root / "train/class_a/000.jpg").read_bytes()
    shutil.move(os.fspath(root / unicodedata.normalize("NFD", name)), root / "a b.jpg")
    assert lists(train="a b.jpg x\ntrain/class_b/000.jpg y").train.paths[0] == "a b.jpg"


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"train": ""}, r"train\.txt: is empty"),
        ({"train": "path\tlabel\n\n"}, r"train\.txt: is empty"),
        (
            {"train": TRAIN + "train/class_a/9.jpg a"},
            r"train\.txt, line 4: train/class_a/9\.jpg: no",
        ),
        ({"train": TRAIN + "\ntrain/class_a/000.jpg b"}, r"train\.txt, line 5: .* also in line 1"),
        ({"train": TRAIN + "./train//class_a/000.jpg b"}, r"line 4: .* also in line 1"),
        ({"train": TRAIN + "alone"}, r"train\.txt, line 4: needs a path and a label"),
        ({"train": TRAIN + "a\tb\tc"}, r"train\.txt, line 4: needs a path and a label"),
        ({"train": TRAIN + "../data/train/class_b/000.jpg b"}, "line 4: .*must be a path below"),
        ({"train": TRAIN + "/etc/passwd b"}, "line 4: .*must be a path below"),
        ({"train": TRAIN.splitlines()[0]}, r"train\.txt: only the class 'a'"),
        (
            {"train": TRAIN, "test": TEST + "test/class_a/000.jpg c"},
            r"test\.txt, line 2: label 'c': is not a class; see a, b",
        ),
        ({"train": b"train/class_a/000.jpg caf\xe9\n"}, r"train\.txt: cannot be read as UTF-8"),
    ],
)
def test_wrong_lists_are_rejected_with_the_line(lists, texts, message):
    with pytest.raises(DatasetError, match=message):
        lists(**texts)


def test_damaged_csv_is_rejected_with_the_line(lists):
    with pytest.raises(DatasetError, match=r"train\.csv, line 2: not CSV"):
        lists(".csv", train='train/class_a/000.jpg,a\n"train/class_b/000.jpg,b\n')


def test_a_missing_list_and_a_missing_root_are_named(root, tmp_path):
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read"):
        file_list.read(root, {"train": tmp_path / "none.csv"})
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        file_list.read(tmp_path / "nowhere", {"train": tmp_path / "none.csv"})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"test_list": "x"}, "need --train-list"),
        ({"train_list": "x"}, "needs --test-list, --val-list or --val-share"),
        ({"train_list": "x", "val_list": "y", "val_share": 0.1}, "drop one of them"),
    ],
)
def test_lists_that_cannot_be_combined_are_rejected(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)
