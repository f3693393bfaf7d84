"""training.resume: a stopped run ends with the same bytes as one that was not stopped."""

from __future__ import annotations

import json
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from dist_ft.config import Config
from dist_ft.errors import CollectiveError, UserError
from dist_ft.inference import trained_model
from dist_ft.train import fit
from dist_ft.training import checkpoint, resume
from tests.runs import arrays_of, rows_of, stop_before, tiny_config

VERSION_1_RUN = Path(__file__).parent / "fixtures" / "run_of_version_1"


pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def config(tiny):
    """Two epochs of three steps."""
    return tiny_config(tiny, epochs=2)


@pytest.fixture(scope="module")
def uninterrupted(config, world, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    fit(replace(config, out=str(run)), world)
    return run


@pytest.fixture
def copy(uninterrupted, tmp_path):
    """A copy of the uninterrupted run."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "copy"))


def fit_until(config, world, step, signum=signal.SIGTERM):
    """Trains a run that receives a signal just before a step. Returns the error."""
    with stop_before(step, signum), pytest.raises(CollectiveError) as stopped:
        fit(config, world)
    return stopped.value


@pytest.mark.parametrize(
    "step, signum, exit_code",
    [  # before any step, within an epoch, after one
        (0, signal.SIGINT, 130),
        (1, signal.SIGTERM, 143),
        (2, signal.SIGUSR1, 75),
        (3, signal.SIGHUP, 129),
    ],
)
def test_a_run_stopped_by_a_signal_and_resumed_ends_with_the_same_bytes(
    config, world, uninterrupted, tmp_path, step, signum, exit_code
):
    config = replace(config, out=str(tmp_path))
    stopped = fit_until(config, world, step, signum)
    saved = checkpoint.latest(tmp_path)
    assert saved.step == step
    assert stopped.exit_code == exit_code
    expected = f"stopped by {signum.name} before step {step}; saved as {saved.path}"
    assert str(stopped).startswith(expected)
    fit(config, world)
    assert arrays_of(tmp_path) == arrays_of(uninterrupted)
    assert rows_of(tmp_path) == rows_of(uninterrupted)


@pytest.mark.jobs
def test_the_same_at_every_step_of_adam(config, world, tmp_path):
    """Its bias correction depends on the number of updates."""
    config = replace(config, optimizer="adam", momentum=0.0)
    fit(replace(config, out=str(tmp_path / "uninterrupted")), world)
    for step in range(6):
        out = tmp_path / f"stopped-before-{step}"
        fit_until(replace(config, out=str(out)), world, step)
        fit(replace(config, out=str(out)), world)
        assert arrays_of(out) == arrays_of(tmp_path / "uninterrupted"), step
        assert rows_of(out) == rows_of(tmp_path / "uninterrupted"), step


@pytest.mark.jobs
@pytest.mark.parametrize("micro_batch", [0, 16])
def test_a_network_with_dropout_resumes_with_the_same_masks(config, world, tmp_path, micro_batch):
    config = replace(config, model="vgg11", momentum=0.0, lr=0.001, epochs=1)
    config = replace(config, micro_batch=micro_batch)
    fit(replace(config, out=str(tmp_path / "uninterrupted")), world)
    mx.random.seed(5)  # whatever the process drew before
    for max_steps in (1, 0):
        fit(replace(config, out=str(tmp_path / "resumed"), max_steps=max_steps), world)
    assert arrays_of(tmp_path / "resumed") == arrays_of(tmp_path / "uninterrupted")


def test_more_epochs_continue_a_finished_run(config, world, uninterrupted, tmp_path):
    for epochs in (1, 2):
        fit(replace(config, out=str(tmp_path), epochs=epochs), world)
    assert arrays_of(tmp_path) == arrays_of(uninterrupted)


def test_a_finished_run_is_left_alone_and_not_resumed_with_other_settings(
    config, world, copy, uninterrupted, caplog
):
    with caplog.at_level("INFO", logger="dist_ft"):
        assert fit(replace(config, out=str(copy)), world).step == 6
    assert "has made all 6 steps; increase --epochs" in caplog.text
    with pytest.raises(UserError, match=r"--wd: 0\.5 instead of 0\.001.*--resume never"):
        fit(replace(config, out=str(copy), wd=0.5), world)
    assert arrays_of(copy) == arrays_of(uninterrupted)
    assert rows_of(copy) == rows_of(uninterrupted)


def test_resume_never_renames_the_old_run(config, world, copy, uninterrupted):
    run = fit(replace(config, out=str(copy), resume="never", seed=3, max_steps=1), world)
    assert run.step == 1
    assert arrays_of(copy.with_name("copy.1")) == arrays_of(uninterrupted)


def test_a_run_resumes_another_runs_folder_and_then_its_own(config, world, uninterrupted, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    fit(replace(config, out=str(first), max_steps=2), world)
    config = replace(config, out=str(second), resume=str(first))
    fit(replace(config, max_steps=4), world)
    shutil.rmtree(first)
    assert fit(config, world).step == 6
    assert arrays_of(second) == arrays_of(uninterrupted)
    with pytest.raises(UserError, match="is a run with different settings"):
        fit(replace(config, wd=0.5), world)
    with pytest.raises(UserError, match="no complete checkpoint"):
        fit(replace(config, out=str(tmp_path / "third")), world)


def test_a_damaged_checkpoint_is_not_resumed(config, world, copy, uninterrupted):
    last = checkpoint.latest(copy).path / "net.params"
    last.write_bytes(last.read_bytes()[:-1])
    assert fit(replace(config, out=str(copy)), world).step == 6
    assert arrays_of(copy) == arrays_of(uninterrupted)


def test_the_best_checkpoint_survives_stops_without_a_step(config, world, tmp_path):
    """With one checkpoint kept besides the best; stopping at the end of the best epoch used to
    save it again without its accuracy."""
    config = replace(config, out=str(tmp_path), epochs=3, lr=0.0, keep=1)  # the first is the best
    fit_until(config, world, 3)
    for _ in range(2):
        assert checkpoint.best(tmp_path).step == 3
        fit_until(config, world, checkpoint.latest(tmp_path).step)
    run = fit(config, world)
    best = checkpoint.best(tmp_path)
    assert (best.step, best.accuracy) == (3, run.best_accuracy)
    assert trained_model.load(tmp_path).step == 3


def test_two_runs_do_not_write_to_one_folder(config, world, tmp_path):
    lock = resume.RunLock(tmp_path)
    with pytest.raises(UserError, match=f"--out {tmp_path}: another run is writing there"):
        fit(replace(config, out=str(tmp_path)), world)
    assert not list(tmp_path.iterdir())
    lock.release()
    fit_until(replace(config, out=str(tmp_path)), world, 1)
    resume.RunLock(tmp_path).release()  # an ended run holds no lock, however it ended


def test_a_checkpoint_of_version_1_is_resumed_with_the_expected_results(world, tmp_path):
    """The run was stopped after 4 of 9 steps by the last version that wrote format version 1.

    expected_scores.jsonl is from the same version, resumed to the end.
    """
    run = Path(shutil.copytree(VERSION_1_RUN, tmp_path / "run"))
    with zipfile.ZipFile(run / "data.zip") as archive:
        archive.extractall(tmp_path / "data")
    settings = json.loads((run / "config.json").read_text())
    known = {name: value for name, value in settings.items() if hasattr(Config, name)}
    tuples = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    paths = {"data": str(tmp_path / "data"), "out": str(run)}
    fit(Config(**{**known, **tuples, **paths, "max_steps": 0}), world)

    expected = [json.loads(line) for line in (run / "expected_scores.jsonl").open()]
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [3, 4, 6, 9]
    for row, old in zip(rows, expected):
        for name in ("epoch", "step", "train_accuracy", "test_correct", "test_images", "confusion"):
            assert row[name] == old[name]
        # Each loss is a mean of float32 losses of logits with 256 terms, after up to 9 updates.
        for name in ("train_loss", "test_loss"):
            assert row[name] == pytest.approx(old[name], rel=9 * 256 * np.finfo(np.float32).eps)
    assert checkpoint.latest(run).state.to_dict()["format_version"] == 3
