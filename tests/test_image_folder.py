"""data.image_folder and data.dataset: what is a data set, and clear errors otherwise."""

import os
import shutil

import pytest

from dist_ft.data.dataset import DatasetError
from dist_ft.data.image_folder import scan
from tests.images import make_folder


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data", train=[3, 2], test=[1, 2], side=8)


def add_class(root, name, splits=("train", "test")):
    for split in splits:
        shutil.copytree(root / split / "class_a", root / split / name)


def test_classes_paths_and_labels_are_sorted(root):
    dataset = scan(str(root))
    assert dataset.classes == ("class_a", "class_b")
    assert dataset.train.paths == (
        "class_a/000.jpg",
        "class_a/001.jpg",
        "class_a/002.jpg",
        "class_b/000.jpg",
        "class_b/001.jpg",
    )
    assert dataset.train.labels == (0, 0, 0, 1, 1)
    assert dataset.test.labels == (0, 1, 1)
    assert (len(dataset.train), len(dataset.test)) == (5, 3)


def test_the_order_does_not_depend_on_the_order_of_creation(root, tmp_path):
    other = tmp_path / "other"
    for path in sorted(root.rglob("*.jpg"), reverse=True):
        target = other / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert scan(str(other)).train.paths == scan(str(root)).train.paths


def test_val_is_used_if_there_is_no_test(root):
    shutil.copytree(root / "test", root / "val")
    assert scan(str(root)).test.root == root / "test"
    shutil.rmtree(root / "test")
    dataset = scan(str(root))
    assert dataset.test.root == root / "val"
    assert len(dataset.test) == 3


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such folder.*--data"):
        scan(str(tmp_path / "nowhere"))
    (tmp_path / "data.zip").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"data\.zip: no such folder"):
        scan(str(tmp_path / "data.zip"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_error_about_a_missing_split_lists_the_folders(root, split):
    (root / split).rename(root / "photos")
    with pytest.raises(DatasetError, match=r"needs the folders train and test .* has .*photos"):
        scan(str(root))


def test_a_folder_without_images_is_rejected(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="has nothing"):
        scan(str(tmp_path / "empty"))
    for path in root.rglob("*.jpg"):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DatasetError, match="no class directory with images"):
        scan(str(root))


def test_a_single_class_is_rejected(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "class_b")
    with pytest.raises(DatasetError, match=r"only 'class_a'; a classifier needs at least two"):
        scan(str(root))


def test_classes_that_a_split_lacks_are_named(root):
    add_class(root, "soup", ["test"])
    add_class(root, "tea", ["train"])
    with pytest.raises(DatasetError, match=r"train lacks soup; .*test lacks tea: both must"):
        scan(str(root))


def test_a_class_directory_without_images_counts_as_missing(root):
    add_class(root, "soup", ["train"])
    (root / "test" / "soup").mkdir()
    with pytest.raises(DatasetError, match="test lacks soup"):
        scan(str(root))
    shutil.rmtree(root / "train" / "soup")
    assert scan(str(root)).classes == ("class_a", "class_b")


@pytest.mark.parametrize(
    "name",
    [
        *("two words", "crème brûlée", "麻婆豆腐", 'it\'s "hot"', "a\nb", "$x_{$", "-n", "b.jpg"),
        os.fsdecode("caf\u00e9".encode("latin-1")),  # not valid UTF-8
    ],
    ids=ascii,
)
def test_a_class_may_have_any_name(root, name):
    add_class(root, name)
    (root / "train" / name / "000.jpg").rename(root / "train" / name / f"{name} 1.jpg")
    dataset = scan(str(root))
    assert name in dataset.classes
    assert f"{name}/{name} 1.jpg" in dataset.train.paths
    assert len(dataset.train.fingerprint()) == 16


def test_extensions_may_be_upper_case(root):
    (root / "train/class_a/000.jpg").rename(root / "train/class_a/000.JPG")
    (root / "train/class_a/001.jpg").rename(root / "train/class_a/001.JpEg")
    assert len(scan(str(root)).train) == 5


def test_other_files_in_a_class_directory_are_listed_as_skipped(root):
    directory = root / "train/class_a"
    skipped = ["notes.txt", "._000.jpg", "noextension", "archive.jpg.zip", ".jpg"]
    for name in skipped:
        (directory / name).write_bytes(b"x")
    (directory / "nested.jpg").mkdir()
    (directory / "gone.jpg").symlink_to("nowhere.jpg")
    (directory / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(directory / "pipe.jpg")
    skipped += ["nested.jpg", "gone.jpg", "loop.jpg", "pipe.jpg"]
    split = scan(str(root)).train
    assert len(split) == 5
    assert sorted(split.skipped) == sorted(f"class_a/{name}" for name in skipped)


def test_files_broken_links_and_hidden_directories_are_not_classes(root):
    (root / "train" / "list.jpg").write_bytes(b"x")
    (root / "train" / "loop").symlink_to("loop")
    add_class(root, ".ipynb_checkpoints", ["train"])
    assert scan(str(root)).classes == ("class_a", "class_b")


def test_links_to_files_and_class_directories_are_followed(root, tmp_path):
    shutil.move(root / "train/class_b", tmp_path / "elsewhere")
    (root / "train/class_b").symlink_to(tmp_path / "elsewhere")
    (root / "train/class_a/linked.jpg").symlink_to("000.jpg")
    dataset = scan(str(root))
    assert dataset.train.labels == (0, 0, 0, 0, 1, 1)
    assert "class_a/linked.jpg" in dataset.train.paths


def fingerprints(root):
    dataset = scan(str(root))
    return dataset.train.fingerprint(), dataset.test.fingerprint()


def test_the_fingerprint_depends_on_names_sizes_classes_and_the_number_of_files(root):
    seen = [fingerprints(root)]
    (root / "train/class_a/000.jpg").rename(root / "train/class_a/0000.jpg")
    seen.append(fingerprints(root))
    with open(root / "train/class_a/0000.jpg", "ab") as file:
        file.write(b"\0")
    seen.append(fingerprints(root))
    shutil.move(root / "train/class_a/0000.jpg", root / "train/class_b/0000.jpg")
    seen.append(fingerprints(root))
    shutil.copy(root / "train/class_a/001.jpg", root / "train/class_a/new.jpg")
    seen.append(fingerprints(root))
    train, test = zip(*seen)
    assert len(set(train)) == 5
    assert len(set(test)) == 1


def test_the_fingerprint_does_not_depend_on_the_place_or_on_skipped_files(root, tmp_path):
    before = fingerprints(root)
    (root / "train/class_a/notes.txt").write_text("x")
    assert fingerprints(root) == before
    root.rename(tmp_path / "moved")
    assert fingerprints(tmp_path / "moved") == before
