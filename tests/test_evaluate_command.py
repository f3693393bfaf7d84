"""dist_ft.evaluate repeats the test of the training run exactly, on any labeled images."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dist_ft import evaluate as command
from dist_ft.errors import UserError
from dist_ft.inference import trained_model
from dist_ft.inference.model_evaluation import assess, labeled_split
from dist_ft.training import checkpoint
from tests.conftest import run_job
from tests.images import make_folder
from tests.rounding import EPSILON

TOLERANCE = 28 * 256 * EPSILON  # of float32 sums over 256 channels in each of 28 layers


@pytest.fixture(scope="module")
def model(trained_run):
    return trained_model.load(trained_run)


@pytest.fixture(scope="module")
def last(trained_run, tiny, world):
    """The assessment of the last checkpoint on the tiny test images."""
    model = trained_model.load(checkpoint.latest(trained_run).path)
    split = labeled_split(str(tiny), "test", model.classes)
    return assess(model.network(world), model, split, world, num_workers=2)


def test_the_scores_are_exactly_those_of_the_last_epoch(trained_run, last):
    row = json.loads((trained_run / "scores.jsonl").read_text().splitlines()[-1])
    assert last.scores.num_images == row["test_images"] == 101
    assert last.scores.correct == row["test_correct"]
    assert last.scores.confusion.tolist() == row["confusion"]
    assert last.scores.loss == pytest.approx(row["test_loss"], rel=1e-12)


def flat(value, name=""):
    """The plain values in nested dicts and lists, by their path."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, part in items for k, v in flat(part, f"{name}/{key}").items()}


@pytest.mark.jobs
def test_two_processes_report_what_one_reports(last, tiny, tmp_path):
    files = ["--json", str(tmp_path / "report.json"), "--png", str(tmp_path / "confusion.png")]
    ended = run_job(["-m", "dist_ft.evaluate", last.checkpoint, str(tiny), *files], 60, num_ranks=2)
    assert ended.status == 0, ended.output
    assert "class_e" in ended.output and "rows: true class" in ended.output
    assert Image.open(tmp_path / "confusion.png").width > 100
    two = flat(json.loads((tmp_path / "report.json").read_text()))
    expected = flat(json.loads(json.dumps(last.results)))
    assert two.keys() == expected.keys()
    for name, value in expected.items():
        # An image's row in its batch differs, and with it the order of float32 sums.
        is_float = isinstance(value, float)
        assert two[name] == (pytest.approx(value, rel=TOLERANCE) if is_float else value)


def test_a_subset_of_the_classes_is_matched_by_name(model, world, tmp_path):
    """class_d and class_b only, in a folder without splits."""
    every_class = make_folder(tmp_path / "all", train=(1,) * 5, test=(8,) * 5)
    for name in ("class_d", "class_b"):
        shutil.copytree(every_class / "test" / name, tmp_path / "two" / name)
    splits = [labeled_split(str(tmp_path / n), "test", model.classes) for n in ("all", "two")]
    net = model.network(world)
    all_five, two = (assess(net, model, split, world, num_workers=2) for split in splits)
    expected = all_five.scores.confusion.copy()
    expected[[0, 2, 4]] = 0
    assert (two.scores.confusion == expected).all()
    assert two.scores.num_images == 16


def test_an_unreadable_image_is_named_and_not_counted(trained_run, tmp_path, call):
    root = make_folder(tmp_path, train=(1,) * 5, test=(3,) * 5)
    (root / "test/class_c/001.jpg").write_bytes(b"\xff\xd8\xff")
    status, _, errors = call(command, trained_run, root, "--json", root / "report.json")
    assert status == 1
    assert "class_c/001.jpg: " in errors and "dist_ft: 1 images cannot be read" in errors
    report = json.loads((root / "report.json").read_text())
    assert report["images"] == np.sum(report["confusion"]) == 14
    assert list(report["unreadable"]) == ["class_c/001.jpg"]


def test_a_split_is_chosen_and_a_wrong_folder_named(model, tiny, tmp_path):
    assert len(labeled_split(str(tiny), "train", model.classes)) == 53
    six = make_folder(tmp_path, train=(1,) * 6, test=(1,) * 6)
    known = "class_a, class_b, class_c, class_d, class_e"
    for root, message in (
        (tiny / "nowhere", "no such folder"),
        (tiny / "test" / "class_a", "no class folder"),
        (six, f"has no class class_f; its classes are {known}"),
    ):
        with pytest.raises(UserError, match=message):
            labeled_split(str(root), "test", model.classes)


def test_other_names_of_splits_and_other_unicode_forms_of_classes_are_matched(tmp_path):
    classes = ("caf\u00e9", "invalid", "valid")
    root = make_folder(tmp_path / "data", train=(1, 1, 1), test=(1, 2, 3))
    for split, name in (("train", "Train"), ("test", "validation")):
        for number, of_a_mac in zip("abc", ("cafe\u0301", "invalid", "valid")):
            (root / split / f"class_{number}").rename(root / split / of_a_mac)
        (root / split).rename(root / name)
    assert labeled_split(str(root), "test", classes).labels == (0, 1, 1, 2, 2, 2)
    assert labeled_split(str(root), "train", classes).labels == (0, 1, 2)
    # A class may have the name of a split.
    assert len(labeled_split(str(root / "validation"), "test", classes)) == 6
    shutil.copytree(root / "validation", root / "Eval")
    with pytest.raises(UserError, match="Eval, validation could each be the test images"):
        labeled_split(str(root), "test", classes)
