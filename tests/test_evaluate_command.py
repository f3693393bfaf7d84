"""dist_ft.evaluate repeats the test of the training run exactly, on any labelled images."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from dist_ft import evaluate as command
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.inference import model_evaluation, trained_model
from dist_ft.training import checkpoint
from tests.conftest import run_job
from tests.images import make_folder

# Of float32 sums over 256 channels in each of 28 layers.
TOLERANCE = 28 * 256 * float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def world():
    world = World(device="cpu", stall_timeout_s=600)
    yield world
    world.close()


@pytest.fixture(scope="module")
def model(trained_run):
    return trained_model.load(trained_run)


@pytest.fixture(scope="module")
def net(model, world):
    return model.network(world)


def last_row(run):
    return json.loads((run / "scores.jsonl").read_text().splitlines()[-1])


def test_the_scores_are_exactly_those_of_the_last_epoch(trained_run, tiny, world):
    last = trained_model.load(checkpoint.latest(trained_run).path)
    split = model_evaluation.labelled_split(str(tiny), "test", last.classes)
    assessment = model_evaluation.assess(last.network(world), last, split, world, 2)
    row = last_row(trained_run)
    assert assessment.scores.num_images == row["test_images"] == 101
    assert assessment.scores.correct == row["test_correct"]
    assert assessment.scores.confusion.tolist() == row["confusion"]
    assert assessment.scores.loss == pytest.approx(row["test_loss"], rel=1e-12)


def flat(value, name=""):
    """The plain values in nested dicts and lists, by their path."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, part in items for k, v in flat(part, f"{name}/{key}").items()}


@pytest.mark.jobs
def test_two_processes_report_what_one_reports(trained_run, tiny, world, tmp_path):
    last = trained_model.load(checkpoint.latest(trained_run).path)
    split = model_evaluation.labelled_split(str(tiny), "test", last.classes)
    one = model_evaluation.assess(last.network(world), last, split, world, 2)
    files = ["--json", str(tmp_path / "report.json"), "--png", str(tmp_path / "confusion.png")]
    arguments = [str(last.path), str(tiny), *files]
    ended = run_job(["-m", "dist_ft.evaluate", *arguments], 60, num_ranks=2)
    assert ended.status == 0, ended.output
    assert "class_e" in ended.output and "rows: true class" in ended.output
    assert Image.open(tmp_path / "confusion.png").width > 100
    two = flat(json.loads((tmp_path / "report.json").read_text()))
    expected = flat(json.loads(json.dumps(one.as_json())))
    assert two.keys() == expected.keys()
    for name, value in expected.items():
        # An image's row in its batch differs, and with it the order of float32 sums.
        is_float = isinstance(value, float)
        assert two[name] == (pytest.approx(value, rel=TOLERANCE) if is_float else value)


def test_a_subset_of_the_classes_is_matched_by_name(model, net, world, tmp_path):
    """class_d and class_b only, in a folder without splits."""
    every_class = make_folder(tmp_path / "all", train=(1,) * 5, test=(8,) * 5)
    for name in ("class_d", "class_b"):
        shutil.copytree(every_class / "test" / name, tmp_path / "two" / name)
    all_five, two = (
        model_evaluation.assess(
            net,
            model,
            model_evaluation.labelled_split(str(root), "test", model.classes),
            world,
            num_workers=2,
        )
        for root in (every_class, tmp_path / "two")
    )
    expected = all_five.scores.confusion.copy()
    expected[[0, 2, 4]] = 0
    assert (two.scores.confusion == expected).all()
    assert two.scores.num_images == 16


def test_an_unknown_class_is_named_with_the_known_ones(model, tmp_path):
    root = make_folder(tmp_path, train=(1,) * 6, test=(1,) * 6)
    known = "class_a, class_b, class_c, class_d, class_e"
    with pytest.raises(UserError, match=f"has no class class_f; its classes are {known}"):
        model_evaluation.labelled_split(str(root), "test", model.classes)


def test_an_unreadable_image_is_named_and_not_counted(trained_run, tmp_path, monkeypatch, capfd):
    root = make_folder(tmp_path, train=(1,) * 5, test=(3,) * 5)
    (root / "test/class_c/001.jpg").write_bytes(b"\xff\xd8\xff")
    out = root / "report.json"
    arguments = [str(trained_run), str(root), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit) as exit:
        command.main()
    assert exit.value.code == "dist_ft: 1 images cannot be read"  # status 1
    assert "class_c/001.jpg: " in capfd.readouterr().err
    report = json.loads(out.read_text())
    assert report["images"] == np.sum(report["confusion"]) == 14
    assert list(report["unreadable"]) == ["class_c/001.jpg"]


def test_either_split_can_be_chosen(model, tiny):
    assert len(model_evaluation.labelled_split(str(tiny), "train", model.classes)) == 53
    with pytest.raises(UserError, match="no such folder"):
        model_evaluation.labelled_split(str(tiny / "nowhere"), "test", model.classes)
    with pytest.raises(UserError, match="no class folder"):
        model_evaluation.labelled_split(str(tiny / "test" / "class_a"), "test", model.classes)
