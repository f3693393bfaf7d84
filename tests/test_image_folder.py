"""data.image_folder and data.dataset: what is a data set, and clear errors otherwise."""

import os
import shutil
import subprocess
import unicodedata

import pytest

from dist_ft.config import Config
from dist_ft.data.dataset import DatasetError
from dist_ft.data.image_folder import scan
from dist_ft.settings import ConfigError
from dist_ft.text import canonical
from tests.images import make_folder

CAFE, CAFE_OF_A_MAC = "caf\u00e9", "cafe\u0301"


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


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "EVAL"])
def test_val_is_a_split_of_its_own_if_there_is_a_test(root, name):
    shutil.copytree(root / "test", root / name)
    dataset = scan(str(root))
    assert (dataset.val.root, dataset.test.root) == (root / name, root / "test")
    assert [*dataset.splits] == ["train", "val", "test"] and dataset.selection is dataset.val
    shutil.rmtree(root / name / "class_b")
    with pytest.raises(DatasetError, match=f"{name} lacks class_b: all must"):
        scan(str(root))


def test_several_folders_of_validation_images_are_ambiguous(root):
    for name in ("val", "eval"):
        shutil.copytree(root / "test", root / name)
    with pytest.raises(DatasetError, match="eval, val could each be the val images"):
        scan(str(root))


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["Test", "testing", "val", "valid", "Validation", "eval"])
def test_common_names_of_splits_are_accepted_in_any_case(root, train, test):
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    dataset = scan(str(root))
    assert (dataset.train.root, dataset.test.root) == (root / train, root / test)
    with pytest.raises(ConfigError, match="is inside the images"):
        Config(data=str(root), out=str(root / test / "run"))


@pytest.mark.parametrize(
    "names", [("train", "Train"), ("training", "train"), ("test", "Test"), ("val", "valid")]
)
def test_ambiguous_names_of_splits_are_rejected(root, names):
    split = "train" if "train" in names else "test"
    (root / split).rename(root / names[0])
    shutil.copytree(root / names[0], root / names[1])
    message = rf"{', '.join(sorted(names))} could each be the {split} images; remove all but one"
    with pytest.raises(DatasetError, match=message):
        scan(str(root))


@pytest.mark.parametrize("name", ["two words", "it's", "-n", "$HOME"])
def test_the_command_that_splits_class_folders_works(tmp_path, name):
    root = tmp_path / name
    make_folder(root, train=[11, 3, 5], test=[])
    for folder in [*(root / "train").iterdir()]:
        folder.rename(root / folder.name)
    (root / "class_c").rename(root / "-n $c 'd' *")
    (root / "train").rmdir()
    before = sorted(path.read_bytes() for path in root.rglob("*.*g"))
    with pytest.raises(DatasetError, match="no train and test folders") as error:
        scan(str(root))
    command = str(error.value).partition("to train: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    dataset = scan(str(root))
    assert dataset.classes == ("-n $c 'd' *", "class_a", "class_b")
    assert [dataset.train.labels.count(label) for label in range(3)] == [4, 8, 2]
    assert [dataset.test.labels.count(label) for label in range(3)] == [1, 3, 1]
    assert sorted(path.read_bytes() for path in root.rglob("*.*g")) == before


def test_class_folders_in_two_unicode_forms_are_one_class(root):
    for split, name in (("train", CAFE_OF_A_MAC), ("test", CAFE)):
        (root / split / "class_a").rename(root / split / name)
    dataset = scan(str(root))
    assert dataset.classes == (CAFE, "class_b")
    assert dataset.train.paths[0] == f"{CAFE_OF_A_MAC}/000.jpg"
    assert dataset.train.read(0) and dataset.test.read(0)


def test_a_split_with_two_folders_of_one_class_is_rejected(root):
    add_class(root, CAFE)
    add_class(root, CAFE_OF_A_MAC, ["test"])
    with pytest.raises(DatasetError, match=r"test: 'cafe\\u0301' and 'caf\\xe9' are the same name"):
        scan(str(root))


def test_copies_in_two_unicode_forms_have_the_same_order_and_fingerprint(root, tmp_path):
    names = ["e\u0301t\u00e9", "f", "e", "ez", "\u212b", "z"]  # the Angstrom sign becomes a letter
    for name in names:
        add_class(root, name, ["train"])
        for number, file in enumerate(sorted((root / "train" / name).iterdir())):
            file.rename(file.with_name(f"{name}{names[number]}.jpg"))
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    other = tmp_path / "composed"
    for path in root.rglob("*.*g"):
        copy = other / unicodedata.normalize("NFC", str(path.relative_to(root)))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    mac, linux = scan(str(root)), scan(str(other))
    assert mac.classes == linux.classes == tuple(sorted(linux.classes))
    assert [canonical(path) for path in mac.train.paths] == list(linux.train.paths)
    assert mac.train.paths != linux.train.paths
    assert mac.train.fingerprint() == linux.train.fingerprint()


def test_a_missing_folder_is_named(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"")
    for name in ("nowhere", "data.zip"):
        with pytest.raises(DatasetError, match=rf"{name}: no such folder.*--data"):
            scan(str(tmp_path / name))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_error_about_a_missing_split_lists_the_folders(root, split):
    (root / split).rename(root / "photos")
    with pytest.raises(DatasetError, match=r"needs the folders train .*eval.* has .*photos"):
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
    (root / "test" / "tea").mkdir()  # without images
    with pytest.raises(DatasetError, match=r"train lacks soup; .*test lacks tea: all must"):
        scan(str(root))


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
    for path in root.glob("train/class_a/*.jpg"):
        path.rename(path.with_suffix(".JpEG"))
    assert len(scan(str(root)).train) == 5


def test_other_files_in_a_class_directory_are_listed_as_skipped(root):
    directory = root / "train/class_a"
    files = ["notes.txt", "._000.jpg", "noextension", "archive.jpg.zip", ".jpg"]
    for name in files:
        (directory / name).write_bytes(b"x")
    (directory / "nested.jpg").mkdir()
    (directory / "gone.jpg").symlink_to("nowhere.jpg")
    (directory / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(directory / "pipe.jpg")
    split = scan(str(root)).train
    assert len(split) == 5
    skipped = [*files, "nested.jpg", "gone.jpg", "loop.jpg", "pipe.jpg"]
    assert sorted(split.skipped) == sorted(f"class_a/{name}" for name in skipped)


def test_files_broken_links_empty_and_hidden_directories_are_not_classes(root):
    (root / "train" / "list.jpg").write_bytes(b"x")
    (root / "train" / "loop").symlink_to("loop")
    (root / "train" / "empty").mkdir()
    add_class(root, ".ipynb_checkpoints", ["train"])
    assert scan(str(root)).classes == ("class_a", "class_b")


def test_links_to_files_and_class_directories_are_followed(root, tmp_path):
    shutil.move(root / "train/class_b", tmp_path / "elsewhere")
    (root / "train/class_b").symlink_to(tmp_path / "elsewhere")
    (root / "train/class_a/linked.jpg").symlink_to("000.jpg")
    dataset = scan(str(root))
    assert dataset.train.labels == (0, 0, 0, 0, 1, 1)
    assert "class_a/linked.jpg" in dataset.train.paths


def test_the_fingerprint_depends_on_names_sizes_classes_and_the_number_of_files(root, tmp_path):
    class_a, class_b = root / "train/class_a", root / "train/class_b"
    changes = [
        lambda: None,
        lambda: (class_a / "000.jpg").rename(class_a / "0000.jpg"),
        lambda: (class_a / "0000.jpg").write_bytes(b"another size"),
        lambda: (class_a / "0000.jpg").rename(class_b / "0000.jpg"),
        lambda: shutil.copy(class_a / "001.jpg", class_a / "new.jpg"),
    ]
    train, test = [], set()
    for change in changes:
        change()
        train.append(scan(str(root)).train.fingerprint())
        test.add(scan(str(root)).test.fingerprint())
    assert len(set(train)) == len(changes) and len(test) == 1
    (class_a / "notes.txt").write_text("x")  # a skipped file, and another place, do not matter
    root.rename(tmp_path / "moved")
    assert scan(str(tmp_path / "moved")).train.fingerprint() == train[-1]
