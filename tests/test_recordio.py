"""data.recordio: archives of MXNet's writer are read, and ours are byte-identical to them."""

import struct

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data import recordio
from dist_ft.data.dataset import DatasetError
from dist_ft.data.image_folder import scan

MAGIC = struct.pack("<I", recordio.MAGIC)
# Encoded images that contain the magic number, at which a record is split.
lists_of_images = st.lists(
    st.lists(st.sampled_from([MAGIC, b"a", b"bcd", b"\0" * 7]), max_size=9).map(b"".join),
    min_size=2,
    max_size=6,
)


def write_with_mxnet(root, name, images, labels=None):
    writer = mx.recordio.MXIndexedRecordIO(
        str(root / f"{name}.idx"), str(root / f"{name}.rec"), "w"
    )
    for number, data in enumerate(images):
        label = number % 2 if labels is None else labels[number]
        header = mx.recordio.IRHeader(0, label, number, 0)
        writer.write_idx(number, mx.recordio.pack(header, data))
    writer.close()


@given(lists_of_images)
@settings(max_examples=40, deadline=None)
def test_archives_of_mxnet_are_read_and_ours_are_byte_identical(tmp_path_factory, images):
    root = tmp_path_factory.mktemp("any")
    for name in ("train", "test"):
        write_with_mxnet(root, name, images)
    train = scan(str(root)).train
    assert [train.read(index) for index in range(len(images))] == images
    assert list(train.labels) == [index % 2 for index in range(len(images))]
    assert list(train.sizes()) == list(map(len, images))
    recordio.write_archive(root / "ours", [(index % 2, data) for index, data in enumerate(images)])
    for extension in (".rec", ".idx"):
        ours, theirs = (root / f"{name}{extension}" for name in ("ours", "train"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_error_while_writing_leaves_no_files(tmp_path):
    def images():
        yield 0, b"image"
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        recordio.write_archive(tmp_path / "train", images())
    assert list(tmp_path.iterdir()) == []


def test_several_archives_form_one_split(tmp_path):
    write_with_mxnet(tmp_path, "train_0", [b"a", b"b", b"c"])
    labels = [np.array([0.0]), np.array([1.0])]  # arrays of one number are accepted, too
    write_with_mxnet(tmp_path, "train_1", [b"d", b"e"], labels)
    write_with_mxnet(tmp_path, "val", [b"f", b"g"])
    dataset = scan(str(tmp_path))
    assert [dataset.train.read(index) for index in range(5)] == [b"a", b"b", b"c", b"d", b"e"]
    assert dataset.train.paths[3] == "train_1.rec/3" and dataset.train.labels == (0, 1, 0, 0, 1)
    assert dataset.classes == ("0", "1")


@pytest.mark.parametrize("test", ["Test", "test_0", "val", "valid.1", "validation", "EVAL-a"])
def test_common_names_of_archives_are_accepted_in_any_case(tmp_path, test):
    for name in ("Train_0", "Train_1", test):
        write_with_mxnet(tmp_path, name, [b"a", b"b"])
    dataset = scan(str(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (4, 2)


def test_archives_of_val_are_a_split_of_their_own_if_there_is_a_test(tmp_path):
    for name, images in (("train", b"ab"), ("valid_0", b"cd"), ("valid_1", b"ef"), ("test", b"gh")):
        write_with_mxnet(tmp_path, name, [bytes([image]) for image in images])
    dataset = scan(str(tmp_path))
    assert [dataset.val.read(index) for index in range(4)] == [b"c", b"d", b"e", b"f"]
    assert [dataset.test.read(index) for index in range(2)] == [b"g", b"h"]
    part = dataset.val.subset([3, 0])
    assert [part.read(index) for index in range(2)] == [b"f", b"c"] and part.labels == (1, 0)
    write_with_mxnet(tmp_path, "eval", [b"a", b"b"])
    with pytest.raises(DatasetError, match="with one NAME for each split"):
        scan(str(tmp_path))


@pytest.mark.parametrize(
    "names", [("train", "Train", "val"), ("train", "val", "valid"), ("train",)]
)
def test_missing_and_ambiguous_archives_are_listed(tmp_path, names):
    for name in names:
        write_with_mxnet(tmp_path, name, [b"a", b"b"])
    found = ", ".join(sorted(f"{name}.rec" for name in names))
    with pytest.raises(DatasetError, match=rf"with one NAME for each split.*has {found}"):
        scan(str(tmp_path))


def test_class_names_of_archives_are_composed_and_may_contain_any_separator(tmp_path):
    for name in ("train", "test"):
        write_with_mxnet(tmp_path, name, [b"a", b"b"])
    (tmp_path / "classes.txt").write_text("cafe\u0301\na\u2028b\x85c\n", encoding="utf-8")
    assert scan(str(tmp_path)).classes == ("caf\u00e9", "a\u2028b\x85c")
    (tmp_path / "classes.txt").write_text("cafe\u0301\ncaf\u00e9\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="one class name per line, each once"):
        scan(str(tmp_path))


def test_the_fingerprint_depends_on_the_images_and_not_on_the_folder(tmp_path):
    fingerprints = []
    for name, last in (("one", b"bb"), ("two", b"bb"), ("three", b"bbb")):
        (tmp_path / name).mkdir()
        write_with_mxnet(tmp_path / name, "train", [b"a", last])
        write_with_mxnet(tmp_path / name, "test", [b"a", b"b"])
        fingerprints.append(scan(str(tmp_path / name)).train.fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 0.5], "one label, a non-negative integer"),
        ([0, -1], "one label, a non-negative integer"),
        ([0, np.array([1.0, 2.0])], "one label, a non-negative integer"),
        ([0, 2], "the labels of train.*see 1"),
        ([0, 0], "the labels of test|one class only"),
    ],
)
def test_labels_that_are_not_classes_are_rejected(tmp_path, labels, message):
    write_with_mxnet(tmp_path, "train", [b"a", b"b"], labels)
    write_with_mxnet(tmp_path, "test", [b"a", b"b"])
    with pytest.raises(DatasetError, match=message):
        scan(str(tmp_path))


def test_a_truncated_archive_is_rejected_wherever_it_ends(tmp_path):
    write_with_mxnet(tmp_path, "test", [b"a", b"b"])
    write_with_mxnet(tmp_path, "train", [b"a", MAGIC * 2, b"b"], labels=[0, 1, 1])
    content = (tmp_path / "train.rec").read_bytes()
    index_lines = (tmp_path / "train.idx").read_text().splitlines()
    record_starts = {int(line.split()[1]) for line in index_lines}
    for length in {0, *range(len(content))} - (record_starts - {0}):
        (tmp_path / "train.rec").write_bytes(content[:length])
        with pytest.raises(DatasetError):
            scan(str(tmp_path))


def test_a_data_set_without_a_test_archive_is_rejected(tmp_path):
    write_with_mxnet(tmp_path, "train", [b"a", b"b"])
    with pytest.raises(DatasetError, match="test"):
        scan(str(tmp_path))


@pytest.mark.parametrize("names", ["cats\n", "cats\ncats\n", "cats\n\n"])
def test_class_names_that_do_not_match_the_labels_are_rejected(tmp_path, names):
    write_with_mxnet(tmp_path, "train", [b"a", b"b"])
    write_with_mxnet(tmp_path, "test", [b"a", b"b"])
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(DatasetError, match="classes.txt|labels of train"):
        scan(str(tmp_path))
