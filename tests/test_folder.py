"""data.folder: what is in a data set, and a plain word where it cannot be trained on."""

import os
import shutil

import pytest

from dist_ft.data.image_folder import DatasetError, scan
from tests.images import make_folder


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data", train=[3, 2], test=[1, 2], side=8)


def add_class(root, name, splits=("train", "test")):
    for split in splits:
        shutil.copytree(root / split / "class_a", root / split / name)


def test_classes_paths_and_labels_come_sorted(root):
    folder = scan(str(root))
    assert folder.classes == ("class_a", "class_b")
    assert folder.train.paths == (
        *("class_a/000.jpg", "class_a/001.jpg", "class_a/002.jpg"),
        *("class_b/000.jpg", "class_b/001.jpg"),
    )
    assert folder.train.labels == (0, 0, 0, 1, 1)
    assert folder.test.labels == (0, 1, 1)
    assert (len(folder.train), len(folder.test)) == (5, 3)
    assert all((folder.train.root / path).is_file() for path in folder.train.paths)


def test_the_order_does_not_depend_on_the_order_in_which_files_were_made(root, tmp_path):
    other = tmp_path / "other"
    for path in sorted(root.rglob("*.jpg"), reverse=True):
        target = other / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert scan(str(other)).train.paths == scan(str(root)).train.paths
    assert scan(str(other)).train.fingerprint() == scan(str(root)).train.fingerprint()


def test_val_serves_where_there_is_no_test(root):
    expected = scan(str(root)).test.paths
    (root / "test").rename(root / "val")
    folder = scan(str(root))
    assert folder.test.root == root / "val"
    assert folder.test.paths == expected


def test_test_is_taken_where_there_is_also_val(root):
    shutil.copytree(root / "test", root / "val")
    assert scan(str(root)).test.root == root / "test"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: no such folder.*--data"):
        scan(str(tmp_path / "nowhere"))


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"data\.zip: no such folder"):
        scan(str(tmp_path / "data.zip"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_told_with_what_is_there(root, split):
    (root / split).rename(root / "photos")
    with pytest.raises(DatasetError, match=r"needs the folders train and test .* has .*photos"):
        scan(str(root))


def test_an_empty_folder_has_nothing(tmp_path):
    with pytest.raises(DatasetError, match="has nothing"):
        scan(str(tmp_path))


def test_a_folder_without_images_is_refused(root):
    for path in root.rglob("*.jpg"):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DatasetError, match="no class directory with images"):
        scan(str(root))


def test_one_class_is_refused_and_named(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "class_b")
    with pytest.raises(DatasetError, match=r"only 'class_a'; a classifier needs at least two"):
        scan(str(root))


def test_classes_that_one_side_lacks_are_named_with_the_side(root):
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
    "name", ["two words", "crème brûlée", "麻婆豆腐", 'it\'s "hot"', "a\nb", "$x_{$", "-n", "b.jpg"]
)
def test_any_name_of_a_class_is_taken_as_it_is(root, name):
    add_class(root, name)
    (root / "train" / name / "000.jpg").rename(root / "train" / name / f"{name} 1.jpg")
    folder = scan(str(root))
    assert name in folder.classes
    assert f"{name}/{name} 1.jpg" in folder.train.paths
    assert len(folder.train.fingerprint()) == 16


def test_a_name_that_is_no_utf_8_is_taken_as_it_is(root):
    name = os.fsdecode("caf\u00e9".encode("latin-1"))
    add_class(root, name)
    folder = scan(str(root))
    assert name in folder.classes
    assert len(folder.train.fingerprint()) == 16


def test_upper_case_extensions_are_images(root):
    (root / "train/class_a/000.jpg").rename(root / "train/class_a/000.JPG")
    (root / "train/class_a/001.jpg").rename(root / "train/class_a/001.JpEg")
    assert len(scan(str(root)).train) == 5


def test_what_is_no_image_by_its_name_is_skipped_and_told(root):
    directory = root / "train/class_a"
    for name in ("notes.txt", "._000.jpg", "noextension", "archive.jpg.zip", ".jpg"):
        (directory / name).write_bytes(b"x")
    (directory / "nested.jpg").mkdir()
    (directory / "gone.jpg").symlink_to("nowhere.jpg")
    (directory / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(directory / "pipe.jpg")
    split = scan(str(root)).train
    assert len(split) == 5
    assert sorted(split.skipped) == [
        f"class_a/{name}"
        for name in (
            *("._000.jpg", ".jpg", "archive.jpg.zip", "gone.jpg", "loop.jpg"),
            *("nested.jpg", "noextension", "notes.txt", "pipe.jpg"),
        )
    ]


def test_stray_files_and_links_beside_the_classes_are_no_classes(root):
    (root / "train" / "list.jpg").write_bytes(b"x")
    (root / "train" / "loop").symlink_to("loop")
    assert scan(str(root)).classes == ("class_a", "class_b")


def test_hidden_directories_are_no_classes(root):
    add_class(root, ".ipynb_checkpoints", ["train"])
    assert scan(str(root)).classes == ("class_a", "class_b")


def test_links_to_files_and_class_directories_are_followed(root, tmp_path):
    shutil.move(root / "train/class_b", tmp_path / "elsewhere")
    (root / "train/class_b").symlink_to(tmp_path / "elsewhere")
    (root / "train/class_a/linked.jpg").symlink_to("000.jpg")
    folder = scan(str(root))
    assert folder.train.labels == (0, 0, 0, 0, 1, 1)
    assert "class_a/linked.jpg" in folder.train.paths


def fingerprints(root):
    folder = scan(str(root))
    return folder.train.fingerprint(), folder.test.fingerprint()


def test_the_fingerprint_changes_with_a_name_a_size_a_class_and_a_new_file(root):
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


def test_the_fingerprint_does_not_change_with_the_place_or_with_skipped_files(root, tmp_path):
    before = fingerprints(root)
    (root / "train/class_a/notes.txt").write_text("x")
    assert fingerprints(root) == before
    root.rename(tmp_path / "moved")
    assert fingerprints(tmp_path / "moved") == before
