"""training.selection: val selects the best epoch, and test is scored once, with its network."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_ft.data.rank_batches import RankBatches
from dist_ft.errors import UserError
from dist_ft.inference import trained_model
from dist_ft.inference.model_evaluation import assess, labeled_split, split_of_run
from dist_ft.models import parameters
from dist_ft.reporting import history, run_report
from dist_ft.train import fit
from dist_ft.training import checkpoint
from dist_ft.training.feature_cache import FeatureBatches
from dist_ft.training.selection import Selection
from tests.conftest import TINY, run_job, train
from tests.html_page import Page
from tests.images import make_folder
from tests.runs import arrays_of, rows_of, stop_before, tiny_config

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """Where --val-share keeps its choice."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """53 training, 23 validation and 31 test images: all numbers are prime."""
    root = tmp_path_factory.mktemp("selection") / "data"
    return make_folder(root, (13, 9, 11, 10, 10), (7, 6, 6, 6, 6), val=(5, 4, 5, 5, 4))


@pytest.fixture(scope="module")
def config(data):
    """Three epochs of three steps, each of which changes much."""
    return tiny_config(data, epochs=3, lr=0.05)


@pytest.fixture(scope="module")
def uninterrupted(config, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    fit(replace(config, out=str(out)), world)
    return out


@pytest.fixture
def evaluated(monkeypatch):
    """The names of the splits that are evaluated, in order."""
    names = []
    for batches in (RankBatches, FeatureBatches):
        in_order = batches.in_order

        def recorded(self, split, in_order=in_order):
            names.append(split)
            return in_order(self, split)

        monkeypatch.setattr(batches, "in_order", recorded)
    return names


def scores_of(run):
    return json.loads((run / "test_scores.json").read_text())


def assert_same_result(run, expected):
    assert arrays_of(run) == arrays_of(expected)
    assert rows_of(run) == rows_of(expected)
    assert scores_of(run) == scores_of(expected)


def test_val_selects_the_network_that_is_scored_on_test(uninterrupted, data, world):
    rows = rows_of(uninterrupted)
    accuracies = [row["val_accuracy"] for row in rows]
    best = rows[accuracies.index(max(accuracies))]
    assert all(row["val_images"] == 23 for row in rows)
    assert not any(key.startswith("test") for row in rows for key in row)
    scores = scores_of(uninterrupted)
    assert (scores["step"], scores["val_accuracy"]) == (best["step"], best["val_accuracy"])
    model = trained_model.load(uninterrupted)
    assert model.step == best["step"]
    split = labeled_split(str(data), "test", model.classes)
    expected = assess(model.network(world), model, split, world, num_workers=1).scores
    assert (scores["correct"], scores["images"]) == (expected.correct, 31)
    assert scores["confusion"] == expected.confusion.tolist()
    assert scores["loss"] == pytest.approx(expected.loss, rel=1e-12)


def test_the_lines_name_the_split(config, world, tmp_path, caplog):
    with caplog.at_level("INFO", logger="dist_ft"):
        run = fit(replace(config, out=str(tmp_path), lr=0.0), world)
    scores, text = run.test_scores, caplog.text
    assert "5 classes, 53 training images, 23 validation images, 31 test images" in text
    assert f" val acc {scores.val_accuracy:.3f}, time " in text
    assert f"best val acc {scores.val_accuracy:.3f} after epoch 1, whose test acc is" in text
    assert "selected on the test images" not in text


def test_tensorboard_labels_the_split(uninterrupted):
    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {"val/loss", "val/accuracy", "best/val_accuracy"} <= {*tags}
    scores = scores_of(uninterrupted)
    (point,) = events.Scalars("test/accuracy")
    assert point.step == scores["step"]
    assert point.value == pytest.approx(scores["accuracy"], rel=1e-6)


def test_the_report_labels_the_split(uninterrupted, world):
    run = history.read(uninterrupted)
    predictions = run_report.predictions_of(run, run.settings["data"], world, num_workers=1)
    assert predictions.same_images and len(predictions.predictions) == 23
    shown = run_report.render(run, [], predictions)
    scores = scores_of(uninterrupted)
    assert f"{scores['accuracy']:.3f}" in shown and f"{scores['val_accuracy']:.3f}" in shown
    assert "the test images were scored once" in shown
    assert {"val loss", "val acc"} <= {*Page(shown).cells}
    assert "test acc" not in Page(shown).cells


def test_the_report_does_not_show_scores_of_a_network_that_is_no_longer_the_best(
    uninterrupted, tmp_path
):
    run = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    assert history.read(run).result_split == "test"
    scores = scores_of(run)
    (run / "test_scores.json").write_text(json.dumps({**scores, "step": scores["step"] + 1}))
    assert history.read(run).result_split == "val"


def test_test_is_scored_once_after_the_last_epoch(config, world, evaluated, tmp_path):
    config = replace(config, out=str(tmp_path))
    first = fit(config, world)
    assert evaluated == ["val", "val", "val", "test"]
    assert fit(config, world).test_scores == first.test_scores
    assert evaluated == ["val", "val", "val", "test"]


def test_a_run_stopped_before_the_test_is_scored_when_it_resumes(
    config, world, uninterrupted, tmp_path
):
    config = replace(config, out=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Selection, "score_test", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(config, world)
    assert not (tmp_path / "test_scores.json").exists()
    fit(config, world)
    assert_same_result(tmp_path, uninterrupted)


@pytest.mark.parametrize("step", [1, 6])  # within an epoch, and between two
def test_a_run_stopped_and_resumed_ends_with_the_same_scores(
    config, world, uninterrupted, tmp_path, step
):
    config = replace(config, out=str(tmp_path))
    with stop_before(step), pytest.raises(UserError, match="stopped by SIGTERM"):
        fit(config, world)
    assert not (tmp_path / "test_scores.json").exists()
    fit(config, world)
    assert_same_result(tmp_path, uninterrupted)


def test_scoring_leaves_the_parameters_of_the_last_step(config, world, tmp_path):
    run = fit(replace(config, out=str(tmp_path), lr=0.0), world)
    first, last = checkpoint.best(tmp_path), checkpoint.latest(tmp_path)
    assert (first.step, last.step, run.test_scores.step) == (3, 9, 3)
    actual = {name: a.asnumpy().tobytes() for name, a in parameters.arrays(run.core).items()}
    of_last, of_first = (
        {name: array.asnumpy().tobytes() for name, array in found.net_arrays().items()}
        for found in (last, first)
    )
    assert actual == of_last != of_first  # in BatchNorm's statistics


def test_more_epochs_score_the_test_again_only_with_another_network(
    config, world, evaluated, tmp_path
):
    config = replace(config, out=str(tmp_path), lr=0.0)  # the first epoch stays the best
    for epochs in (1, 2):
        fit(replace(config, epochs=epochs), world)
    assert evaluated == ["val", "test", "val"]


def test_patience_counts_epochs_on_val(config, world, evaluated, tmp_path):
    run = fit(replace(config, out=str(tmp_path), lr=0.0, epochs=9, patience=2), world)
    assert run.step == 3 * 3
    assert evaluated == ["val"] * 3 + ["test"]


def test_a_run_does_not_resume_with_other_validation_images(config, world, tmp_path):
    shutil.copytree(config.data, tmp_path / "data")
    config = replace(config, data=str(tmp_path / "data"), out=str(tmp_path / "run"), epochs=1)
    fit(config, world)
    image = next((tmp_path / "data/val/class_a").iterdir())
    image.rename(image.with_name("other.jpg"))
    with pytest.raises(UserError, match="val images: 23 of fingerprint"):
        fit(config, world)
    (tmp_path / "data/val").rename(tmp_path / "val")
    with pytest.raises(UserError, match="val images: None instead of 23 of fingerprint"):
        fit(config, world)


def test_an_image_of_val_in_another_split_stops_the_run(config, world, tmp_path):
    shutil.copytree(config.data, tmp_path / "data")
    image = next((tmp_path / "data/val/class_a").iterdir())
    config = replace(config, data=str(tmp_path / "data"), out=str(tmp_path / "run"))
    for split, pair in (("train", rf"{image} is \S+/copy"), ("test", rf"/copy\S+ is {image}")):
        copy = shutil.copy(image, tmp_path / "data" / split / f"class_a/copy{image.suffix}")
        with pytest.raises(UserError, match=rf"(?s)1 image is in two splits.*{pair}"):
            fit(config, world)
        os.remove(copy)


@pytest.mark.parametrize("settings", [{"cache": "disk"}, {"backbone_lr_mult": 0.0}])
def test_caches_hold_the_validation_images(config, world, tmp_path, settings):
    """The networks are the same, since cached training images would give another one."""
    config = replace(config, lr=0.0, bn="frozen", epochs=1, cache_dir=str(tmp_path / "cache"))
    first, second = tmp_path / "cached", tmp_path / "not"
    fit(replace(config, out=str(first), **settings), world)
    fit(replace(config, out=str(second), views=0), world)
    assert list((tmp_path / "cache").iterdir())
    assert rows_of(first)[0]["confusion"] == rows_of(second)[0]["confusion"]
    assert scores_of(first)["confusion"] == scores_of(second)["confusion"]


def test_a_flat_folder_has_validation_images_and_no_test(config, world, tmp_path, caplog):
    data = f"{config.data}/train"
    flat = replace(config, data=data, out=str(tmp_path), val_share=0.3, epochs=1, seed=1)
    with caplog.at_level("INFO", logger="dist_ft"):
        run = fit(flat, world)
    assert run.test_scores is None and not (tmp_path / "test_scores.json").exists()
    assert "there are no test images" in caplog.text
    row = rows_of(tmp_path)[0]
    assert 0 < row["val_images"] < 53 and "test_images" not in row
    assert caplog.text.count("best val acc") == 1
    state = checkpoint.latest(tmp_path).state
    assert state.run_spec["test images"] is None
    model = trained_model.load(tmp_path)
    assert model.selection_images == state.run_spec["val images"]
    split = split_of_run(model, data, "val")
    evaluated = assess(model.network(world), model, split, world, num_workers=1)
    assert evaluated.scores.confusion.tolist() == row["confusion"]


def test_a_run_of_file_lists_is_the_run_of_the_folder(config, world, uninterrupted, tmp_path):
    root, lists = Path(config.data), {}
    for name in ("train", "val", "test"):
        files = sorted((root / name).glob("*/*"), reverse=True)
        rows = [f"{file.relative_to(root)},{file.parent.name}\n" for file in files]
        lists[f"{name}_list"] = str(tmp_path / f"{name}.csv")
        (tmp_path / f"{name}.csv").write_text("".join(rows))
    out = tmp_path / "run"
    fit(replace(config, out=str(out), **lists), world)
    assert arrays_of(out) == arrays_of(uninterrupted)
    assert rows_of(out) == rows_of(uninterrupted)
    assert scores_of(out)["confusion"] == scores_of(uninterrupted)["confusion"]
    model = trained_model.load(out)
    split = split_of_run(model, config.data, "test", tmp_path / "test.csv")
    evaluated = assess(model.network(world), model, split, world, num_workers=1)
    assert evaluated.scores.correct == scores_of(out)["correct"]


def test_without_val_one_line_says_that_test_selects_the_epoch(config, world, tmp_path, caplog):
    shutil.copytree(config.data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data/val")
    config = replace(config, data=str(tmp_path / "data"), out=str(tmp_path / "run"), epochs=1)
    with caplog.at_level("INFO", logger="dist_ft"):
        run = fit(config, world)
    assert caplog.text.count("the best epoch is selected on the test images") == 1
    assert run.test_scores is None and not (tmp_path / "run/test_scores.json").exists()
    assert f"best test acc {run.best_accuracy:.3f}; {tmp_path}/run holds" in caplog.text
    assert rows_of(tmp_path / "run")[0]["test_images"] == 31


@pytest.mark.jobs
def test_one_two_and_four_ranks_select_the_same_epoch_and_score_it_alike(data, tmp_path):
    """With validation images taken from train. The run of two ranks is stopped in its second epoch,
    and four ranks score it again."""
    flags = [*TINY, "--data", str(data), "--bn", "frozen", "--epochs", "3", "--val-share", "0.3"]
    flags += ["--ema", "0.8"]
    flags += ["--cache-dir", str(tmp_path / "cache")]
    shutil.copytree(data, tmp_path / "data", ignore=lambda folder, names: {"val"} & {*names})
    flags[flags.index(str(data))] = str(tmp_path / "data")
    runs = {num_ranks: tmp_path / f"run-{num_ranks}" for num_ranks in (1, 2, 4)}
    words = ["tests/workers/fault.py", "terminate", "1", "4", *flags, "--out", str(runs[2])]
    stopped = run_job(words, 120, num_ranks=2)
    assert "stopped by SIGTERM before step 4" in stopped.output
    for num_ranks, out in runs.items():
        train(*flags, "--out", str(out), num_ranks=num_ranks if num_ranks > 1 else 0)
    (runs[2] / "test_scores.json").unlink()
    resumed = train(*flags, "--out", str(runs[2]), num_ranks=4)
    assert "has made all" in resumed.output
    expected = rows_of(runs[1])
    assert len(expected) == 3
    for num_ranks in (2, 4):
        rows = rows_of(runs[num_ranks])
        for key in ("val_images", "val_correct", "confusion", "step"):
            assert [row[key] for row in rows] == [row[key] for row in expected]
        scores, of_one = scores_of(runs[num_ranks]), scores_of(runs[1])
        assert scores.pop("loss") == pytest.approx(of_one.pop("loss"), rel=1e-5)
        assert scores == of_one
