"""evaluate as a command: the integers of train again, and what else counts say."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft import assess, checkpoint, trained, verdict
from dist_ft.config import Config
from dist_ft.data.image import read
from dist_ft.errors import UserError
from dist_ft.runtime import Solo
from dist_ft.train import fit
from tests.conftest import run_job
from tests.images import make_folder


@pytest.fixture(scope="module")
def world():
    solo = Solo(device="cpu", stall_timeout=600)
    yield solo
    solo.close()


@pytest.fixture(scope="module")
def run(tiny, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = {"epochs": 8, "batch_size": 8, "momentum": 0.9, "head_lr_mult": 1.0, "lr": 0.05}
    net = {"model": "mobilenet0.25", "weights": "none", "image_size": 32}
    fit(Config(data=str(tiny), out=str(out), num_workers=2, **net, **recipe), world)
    return out


def rows(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def said(run, tiny, tmp_path_factory):
    """What one process and what two say of the last checkpoint, and one's output."""
    out = tmp_path_factory.mktemp("said")
    last = str(checkpoint.latest(run).path)
    for size in (0, 2):
        flags = ["--json", str(out / f"{size}.json"), "--png", str(out / f"{size}.png")]
        words = ["-m", "dist_ft.evaluate", last, str(tiny), *flags]
        ended = run_job(words, 60, num_ranks=size)
        assert ended.status == 0, ended.output
        if size == 0:
            assert "class_e" in ended.output and "is a row, taken for a column" in ended.output
            assert read(out / "0.png").shape[2] == 3
    return [json.loads((out / f"{size}.json").read_text()) for size in (0, 2)]


def test_the_integers_are_those_of_trains_last_line(run, said):
    row = rows(run)[-1]
    for report in said:
        assert report["images"] == row["test_images"] == 101
        assert report["correct"] == row["test_correct"]
        assert report["confusion"] == row["confusion"]
        assert report["loss"] == pytest.approx(row["test_loss"], rel=1e-4)
    assert len(set(np.argmax(row["confusion"], axis=1))) > 2  # it has learned something


def test_two_ranks_say_what_one_says(said):
    one, two = said
    sums = "loss", "calibration_error", "calibration"
    assert {k: v for k, v in one.items() if k not in sums} == {
        k: v for k, v in two.items() if k not in sums
    }
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-12)
    assert two["calibration_error"] == pytest.approx(one["calibration_error"], rel=1e-12)
    for name in ("num_images", "correct"):
        assert one["calibration"][name] == two["calibration"][name]


def test_a_subset_of_the_classes_is_matched_by_name(run, world, tmp_path):
    """Of class_d and class_b alone, in no folder of a split."""
    whole = make_folder(tmp_path / "whole", train=(1,) * 5, test=(8,) * 5)
    for name in ("class_d", "class_b"):
        shutil.copytree(whole / "test" / name, tmp_path / "few" / name)
    found = trained.find(str(run))
    net = found.network(world)
    all_five, few = (
        assess.assess(net, found, assess.labelled(str(root), "test", found.classes), world)
        for root in (whole, tmp_path / "few")
    )
    expected = all_five.scores.confusion.copy()
    expected[[0, 2, 4]] = 0
    assert (few.scores.confusion == expected).all()
    assert few.scores.num_images == 16


def test_a_class_that_the_checkpoint_does_not_know_is_named(run, tmp_path):
    root = make_folder(tmp_path, train=(1,) * 6, test=(1,) * 6)
    ended = run_job(["-m", "dist_ft.evaluate", str(run), str(root)], 60)
    assert ended.status == 1
    assert "has the classes class_f" in ended.output
    assert "it knows class_a, class_b, class_c, class_d, class_e" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("num_ranks", [0, 2])
def test_an_unreadable_image_is_named_and_not_counted(run, num_ranks, tmp_path):
    root = make_folder(tmp_path, train=(1,) * 5, test=(3,) * 5)
    (root / "test/class_c/001.jpg").write_bytes(b"\xff\xd8\xff")
    words = ["-m", "dist_ft.evaluate", str(run), str(root), "--json", str(root / "said.json")]
    ended = run_job(words, 60, num_ranks=num_ranks)
    assert ended.status == 1
    assert "class_c/001.jpg: " in ended.output and "1 images cannot be read" in ended.output
    report = json.loads((root / "said.json").read_text())
    assert report["images"] == np.sum(report["confusion"]) == 14
    assert list(report["unreadable"]) == ["class_c/001.jpg"]


def test_the_split_to_train_on_can_be_asked_for(run, tiny):
    classes = trained.find(str(run)).classes
    assert len(assess.labelled(str(tiny), "train", classes)) == 53
    with pytest.raises(UserError, match="no such folder"):
        assess.labelled(str(tiny / "nowhere"), "test", classes)
    with pytest.raises(UserError, match="no class directory"):
        assess.labelled(str(tiny / "test" / "class_a"), "test", classes)


counts = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 30), min_size=n, max_size=n), min_size=n, max_size=n)
)


@given(counts)
def test_class_scores_follow_from_their_definitions(matrix):
    scores = verdict.by_class(np.array(matrix, np.int64))
    for k, row in enumerate(matrix):
        right, support, taken = row[k], sum(row), sum(other[k] for other in matrix)
        assert scores.support[k] == support
        assert scores.recall[k] == (right / support if support else 0)
        assert scores.precision[k] == (right / taken if taken else 0)
        both = scores.recall[k] + scores.precision[k]
        harmonic = 2 * scores.recall[k] * scores.precision[k] / both if both else 0
        assert scores.f1[k] == pytest.approx(harmonic)


@given(st.integers(1, 400), st.data())
@settings(max_examples=25, deadline=None)
def test_an_interval_is_what_drawing_the_images_again_gives(num_images, data):
    correct = data.draw(st.integers(0, num_images))
    right = np.arange(num_images) < correct
    draws = np.random.RandomState(0).randint(0, num_images, (4000, num_images))
    drawn = right[draws].mean(axis=1)
    low, high = verdict.interval(correct, num_images)
    assert low <= correct / num_images <= high
    # 4000 draws place a percentile within 0.01 of its own: three standard errors.
    assert (drawn < low).mean() <= 0.025 + 0.01 and (drawn > high).mean() <= 0.025 + 0.01
    assert (drawn <= low).mean() >= 0.025 - 0.01 and (drawn >= high).mean() >= 0.025 - 0.01


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), max_size=60), st.integers(1, 4)
)
@settings(deadline=None)
def test_the_calibration_error_is_the_definitions(pairs, num_parts):
    calibration = verdict.Calibration()
    for part in range(num_parts):
        mine = pairs[part::num_parts]
        right = np.array([r for r, _ in mine], bool)
        calibration.add(right, np.array([c for _, c in mine], np.float32))
    error = 0.0
    for m in range(verdict.NUM_BINS):
        low, high = m / verdict.NUM_BINS, (m + 1) / verdict.NUM_BINS
        own = [(r, c) for r, c in pairs if low * 15 < c * 15 <= high * 15 or (m == 0 and c == 0)]
        if own:
            accuracy, confidence = np.mean(own, axis=0)
            error += len(own) / len(pairs) * abs(accuracy - confidence)
    assert calibration.error == pytest.approx(error, abs=1e-9)
    assert calibration.num_images.sum() == len(pairs)


def test_one_that_is_right_as_often_as_it_says_has_no_calibration_error():
    calibration = verdict.Calibration()
    calibration.add(np.arange(100) < 75, np.full(100, 0.75, np.float32))
    assert calibration.error == 0
    calibration.add(np.zeros(100, bool), np.full(100, 1.0, np.float32))
    assert calibration.error == 0.5
