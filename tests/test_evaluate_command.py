"""evaluate as a command: the integers of train again, and what else counts say."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ft.config import Config
from dist_ft.data.decoding import decode_file
from dist_ft.distributed.startup import World
from dist_ft.errors import UserError
from dist_ft.evaluation.calibration import NUM_BINS, reliability
from dist_ft.evaluation.confidence_intervals import bootstrap, wilson
from dist_ft.evaluation.confusion import by_class
from dist_ft.inference import assessment, trained_model
from dist_ft.train import fit
from dist_ft.training import checkpoint
from tests.conftest import run_job
from tests.images import make_folder


@pytest.fixture(scope="module")
def world():
    solo = World(device="cpu", stall_timeout=600)
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
            assert decode_file(out / "0.png").shape[2] == 3
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
    assert two.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-12)  # a sum of each rank's sum
    assert one == two


def test_a_subset_of_the_classes_is_matched_by_name(run, world, tmp_path):
    """Of class_d and class_b alone, in no folder of a split."""
    whole = make_folder(tmp_path / "whole", train=(1,) * 5, test=(8,) * 5)
    for name in ("class_d", "class_b"):
        shutil.copytree(whole / "test" / name, tmp_path / "few" / name)
    found = trained_model.find(str(run))
    net = found.network(world)
    all_five, few = (
        assessment.assess(net, found, assessment.labelled(str(root), "test", found.classes), world)
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
    classes = trained_model.find(str(run)).classes
    assert len(assessment.labelled(str(tiny), "train", classes)) == 53
    with pytest.raises(UserError, match="no such folder"):
        assessment.labelled(str(tiny / "nowhere"), "test", classes)
    with pytest.raises(UserError, match="no class directory"):
        assessment.labelled(str(tiny / "test" / "class_a"), "test", classes)


counts = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 30), min_size=n, max_size=n), min_size=n, max_size=n)
)


@given(counts)
def test_class_scores_follow_from_their_definitions(matrix):
    scores = by_class(np.array(matrix, np.int64))
    for k, row in enumerate(matrix):
        right, support, taken = row[k], sum(row), sum(other[k] for other in matrix)
        assert (scores.support[k], scores.taken[k]) == (support, taken)
        assert scores.recall[k] == (right / support if support else 0)
        assert scores.precision[k] == (right / taken if taken else 0)
        both = scores.recall[k] + scores.precision[k]
        harmonic = 2 * scores.recall[k] * scores.precision[k] / both if both else 0
        assert scores.f1[k] == pytest.approx(harmonic)
    tested = [f1 for f1, row in zip(scores.f1, matrix) if sum(row)]
    assert scores.macro_f1 == pytest.approx(np.mean(tested) if tested else 0)


def test_the_bootstrap_of_a_share_comes_to_wilsons_interval():
    """Two answers to one question: with a thousand images they differ by a draw's grain."""
    is_right = np.arange(1000) < 730
    (ends,) = bootstrap(lambda weights: np.array([(weights @ is_right) / weights.sum()]), 1000)
    np.testing.assert_allclose(ends, wilson(730, 1000), atol=0.004)


def test_the_bootstraps_intervals_hold_the_truth_as_often_as_they_say():
    """Of the mean of a skewed distribution, 200 samples of 100: 95 % of them, give or take three
    standard errors of 0.0154."""
    random = np.random.default_rng(1)
    samples = random.exponential(1, (200, 100))
    held = 0
    for sample in samples:
        ((low, high),) = bootstrap(lambda w, x=sample: np.array([w @ x / w.sum()]), 100)
        held += low <= 1 <= high
    assert held / 200 > 0.95 - 3 * 0.0154 - 0.01  # a hundred of them are skewed a little, too
    assert held < 200


@given(st.integers(0, 30), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_every_figure_lies_in_its_interval_which_is_always_the_same(num, num_classes, seed):
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(0, num_classes, (2, num))
    losses, confidence = random.exponential(1, num), random.random(num)
    outcomes = assessment.Outcomes(labels, predicted, losses, confidence)
    figures = outcomes.of(num_classes, np.ones(num))
    ends = bootstrap(lambda w: outcomes.of(num_classes, w), num, 50)
    assert (ends[:, 0] <= figures).all() and (figures <= ends[:, 1]).all()
    assert (ends == bootstrap(lambda w: outcomes.of(num_classes, w), num, 50)).all()
    if num:
        matrix = np.zeros((num_classes, num_classes), int)
        np.add.at(matrix, (labels, predicted), 1)
        scores = by_class(matrix)
        error = reliability(labels == predicted, confidence).error
        expected = [losses.mean(), error, scores.macro_f1, *scores.f1]
        np.testing.assert_allclose(figures, expected)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), max_size=60))
@settings(deadline=None)
def test_the_calibration_error_is_the_definitions(pairs):
    is_right = np.array([right for right, _ in pairs], bool)
    confidence = np.array([p for _, p in pairs], np.float32)
    found = reliability(is_right, confidence)
    error = 0.0
    for m in range(NUM_BINS):
        low, high = m / NUM_BINS, (m + 1) / NUM_BINS
        own = [(r, c) for r, c in pairs if low * 15 < c * 15 <= high * 15 or (m == 0 and c == 0)]
        if own:
            accuracy, mean = np.mean(own, axis=0)
            error += len(own) / len(pairs) * abs(accuracy - mean)
    assert found.error == pytest.approx(error, abs=1e-9)
    assert found.num_images.sum() == len(pairs)
    twice = reliability(is_right, confidence, np.full(len(pairs), 2.0))
    assert twice.error == pytest.approx(found.error, abs=1e-12)


def test_one_that_is_right_as_often_as_it_says_has_no_calibration_error():
    is_right, confidence = np.arange(100) < 75, np.full(100, 0.75, np.float32)
    assert reliability(is_right, confidence).error == 0
    too_sure = np.concatenate([is_right, np.zeros(100, bool)])
    assert reliability(too_sure, np.append(confidence, np.ones(100))).error == 0.5
