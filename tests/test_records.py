"""data.records: archives of MXNet's own making are read, and what is written MXNet reads."""

import struct

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.data import recordio
from dist_ft.data.dataset import DatasetError
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from tests.conftest import run_job
from tests.images import make_folder

MAGIC = struct.pack("<I", recordio.MAGIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("records"), train=[6, 5], test=[3, 4])


def archive(root, name, images, labels=None):
    """As im2rec writes it, by MXNet's own writer."""
    writer = mx.recordio.MXIndexedRecordIO(
        str(root / f"{name}.idx"), str(root / f"{name}.rec"), "w"
    )
    for number, data in enumerate(images):
        label = number % 2 if labels is None else labels[number]
        header = mx.recordio.IRHeader(0, label, number, 0)
        writer.write_idx(number, mx.recordio.pack(header, data))
    writer.close()


# With the frame's own magic number in them, which splits a record in parts.
lists_of_images = st.lists(
    st.lists(st.sampled_from([MAGIC, b"a", b"bcd", b"\0" * 7]), max_size=9).map(b"".join),
    min_size=2,
    max_size=6,
)


@given(lists_of_images)
@settings(max_examples=60, deadline=None)
def test_every_record_of_mxnets_writer_is_read_whatever_bytes_it_has(tmp_path_factory, images):
    """The frame's own magic number among them, which splits a record in parts."""
    root = tmp_path_factory.mktemp("any")
    archive(root, "train", images)
    archive(root, "test", images)
    folder = scan(str(root))
    assert [folder.train.read(index) for index in range(len(images))] == images
    assert list(folder.train.labels) == [index % 2 for index in range(len(images))]
    assert list(folder.train.sizes()) == list(map(len, images))


@given(lists_of_images)
@settings(max_examples=60, deadline=None)
def test_the_archive_is_byte_identical_to_that_of_mxnet(tmp_path_factory, images):
    root = tmp_path_factory.mktemp("written")
    archive(root, "mxnet", images)
    recordio.write_archive(root / "ours", [(index % 2, data) for index, data in enumerate(images)])
    for extension in (".rec", ".idx"):
        ours, theirs = (root / f"{name}{extension}" for name in ("ours", "mxnet"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_mxnet_reads_what_is_written(pictures, tmp_path):
    split = scan(str(pictures)).train
    images = [split.read(index) for index in range(len(split))]
    recordio.write_archive(tmp_path / "train", zip(split.labels, images))
    reader = mx.recordio.MXIndexedRecordIO(
        str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "r"
    )
    assert reader.keys == list(range(len(split)))
    for index in reversed(range(len(split))):
        header, data = mx.recordio.unpack(reader.read_idx(index))
        assert (header.label, header.id, data) == (split.labels[index], index, images[index])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.idx", "train.rec"]


def test_writing_that_fails_in_the_middle_leaves_nothing_behind(tmp_path):
    def broken():
        yield 0, b"image"
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        recordio.write_archive(tmp_path / "train", broken())
    assert list(tmp_path.iterdir()) == []


def batches(folder):
    feed = RankBatches(folder, InputSpec(24, 28, False), 0, 0, 1, 2, 1)
    found = [*feed.train(1, [slice(0, 11)]), *feed.test()]
    feed.close()
    return [(batch.x.tobytes(), batch.labels.tolist(), batch.mask.tolist()) for batch in found]


def test_archives_give_the_batches_of_the_folder_they_were_made_from(pictures, tmp_path):
    ended = run_job(["-m", "dist_ft.pack", str(pictures), "--recordio", str(tmp_path)], 60)
    assert ended.status == 0, ended.output
    folder, again = scan(str(pictures)), scan(str(tmp_path))
    assert again.classes == folder.classes
    assert batches(again) == batches(folder)


def test_images_can_be_written_smaller(pictures, tmp_path):
    words = ["-m", "dist_ft.pack", str(pictures), "--recordio", str(tmp_path), "--side", "24"]
    broken = next((pictures / "test" / "class_a").glob("*.jpg"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:90])
    try:
        ended = run_job(words, 60)
    finally:
        broken.write_bytes(whole)
    assert ended.status == 0, ended.output
    assert f"left out: {broken}: " in ended.output
    folder = scan(str(tmp_path))
    assert (len(folder.train), len(folder.test)) == (11, 6)
    for split in (folder.train, folder.test):
        for index in range(len(split)):
            assert min(mx.image.imdecode(split.read(index)).shape[:2]) == 24


def test_several_archives_of_a_split_are_one_split(tmp_path):
    archive(tmp_path, "train_0", [b"a", b"b", b"c"])
    archive(tmp_path, "train_1", [b"d", b"e"])
    archive(tmp_path, "val", [b"f", b"g"])
    folder = scan(str(tmp_path))
    assert [folder.train.read(index) for index in range(5)] == [b"a", b"b", b"c", b"d", b"e"]
    assert folder.train.paths[3] == "train_1.rec/3"
    assert folder.classes == ("0", "1")


def test_the_fingerprint_knows_the_images_and_not_the_place(tmp_path):
    for name, last in (("one", b"bb"), ("two", b"bb"), ("three", b"bbb")):
        (tmp_path / name).mkdir()
        archive(tmp_path / name, "train", [b"a", last])
        archive(tmp_path / name, "test", [b"a", b"b"])
    one, two, three = (
        scan(str(tmp_path / name)).train.fingerprint() for name in ("one", "two", "three")
    )
    assert one == two != three


def test_a_label_in_a_vector_of_one_is_a_label(tmp_path):
    archive(tmp_path, "train", [b"a", b"b"], labels=[np.array([0.0]), np.array([1.0])])
    archive(tmp_path, "test", [b"a", b"b"])
    split = scan(str(tmp_path)).train
    assert (split.labels, split.read(1)) == ((0, 1), b"b")


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0, 0.5], "one label, a whole number"),
        ([0, -1], "one label, a whole number"),
        ([0, np.array([1.0, 2.0])], "one label, a whole number"),
        ([0, 2], "the labels of train.*see 1"),
        ([0, 0], "the labels of test|one class only"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, words):
    archive(tmp_path, "train", [b"a", b"b"], labels)
    archive(tmp_path, "test", [b"a", b"b"])
    with pytest.raises(DatasetError, match=words):
        scan(str(tmp_path))


def test_an_archive_that_is_cut_off_is_refused_wherever_it_was_cut(tmp_path):
    archive(tmp_path, "test", [b"a", b"b"])
    archive(tmp_path, "train", [b"a", MAGIC * 2, b"b"], labels=[0, 1, 1])
    whole = (tmp_path / "train.rec").read_bytes()
    begins = [int(line.split()[1]) for line in (tmp_path / "train.idx").read_text().splitlines()]
    for end in set(range(len(whole))) - set(begins[1:]):  # not between two records
        (tmp_path / "train.rec").write_bytes(whole[:end])
        with pytest.raises(DatasetError):
            scan(str(tmp_path))


def test_a_train_archive_without_a_test_archive_is_refused(tmp_path):
    archive(tmp_path, "train", [b"a", b"b"])
    with pytest.raises(DatasetError, match="test"):
        scan(str(tmp_path))


@pytest.mark.parametrize("names", ["cats\n", "cats\ncats\n", "cats\n\n"])
def test_class_names_that_do_not_fit_the_labels_are_refused(tmp_path, names):
    archive(tmp_path, "train", [b"a", b"b"])
    archive(tmp_path, "test", [b"a", b"b"])
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(DatasetError, match="classes.txt|labels of train"):
        scan(str(tmp_path))
