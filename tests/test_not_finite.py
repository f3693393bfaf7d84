"""A network that gives NaN with finite parameters is never scored, saved or exported."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest

from dist_ft import evaluate as evaluate_command
from dist_ft import export as export_command
from dist_ft import predict as predict_command
from dist_ft import report as report_command
from dist_ft.data.loader import Batch
from dist_ft.errors import CollectiveError
from dist_ft.evaluation.evaluator import evaluate
from dist_ft.evaluation.predictions import Predictions
from dist_ft.train import fit
from dist_ft.training import checkpoint
from tests.conftest import run_job
from tests.runs import tiny_config

CLASSES = 3


@pytest.fixture
def diverges(trained_run) -> dict[str, object]:
    """Settings of a run whose first update makes the logits of test images overflow.

    One step per epoch, so that no later loss shows it. Only the head is trained: before it, some
    processors' rectifiers turn NaN into 0. Clipping keeps its weights below 2e38, which is finite.
    """
    weights = str(checkpoint.latest(trained_run).path / checkpoint.NET)
    head_only = {"weights": weights, "backbone_lr_mult": 0.0, "views": 0}
    return {
        "batch_size": 53,
        "lr": 2e37,
        "clip_norm": 1.0,
        "epochs": 3,
        "warmup_epochs": 0.0,
        **head_only,
    }


@pytest.fixture(scope="module")
def diverged(trained_run, tmp_path_factory):
    """A checkpoint whose parameters are finite and whose logits overflow."""
    run = tmp_path_factory.mktemp("diverged")
    last = checkpoint.latest(trained_run)
    arrays = last.net_arrays()
    arrays["output.weight"][:] = 3e38
    assert all(np.isfinite(array.asnumpy()).all() for array in arrays.values())
    checkpoint.save(run, last.state, arrays, {}, keep=1)
    for name in ("config.json", "scores.jsonl"):
        (run / name).write_bytes((trained_run / name).read_bytes())
    return run


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", [(0, 0), (4, 1), (11, 2)])
def test_every_batch_is_visited_before_all_ranks_raise(world, value, cell):
    """The ranks make the same collective calls, so none may leave the loop early."""
    logits = mx.nd.zeros((12, CLASSES))
    logits[cell[0], cell[1]] = value
    labels = np.zeros(12, np.int32)
    visited = []

    def batches():
        for start in range(0, 12, 4):
            indices = np.arange(start, start + 4)
            visited.append(start)
            mask = np.ones(4, np.float32)
            yield Batch(indices[:, None].astype(np.uint8), labels[indices], mask, indices)

    def net(x):
        return logits.take(x.reshape(-1).astype("float32"))

    with pytest.raises(CollectiveError, match="the loss is not finite on 1 of the images: .*--lr"):
        evaluate(net, batches(), CLASSES, world, Predictions())
    assert visited == [0, 4, 8]


def test_padding_may_be_anything(world):
    mask = np.array([1, 0], np.float32)
    batch = Batch(np.zeros((2, 1), np.uint8), np.zeros(2, np.int32), mask, np.array([0, -1]))
    logits = mx.nd.array([[0.0, 1.0], [np.nan, np.inf]])
    assert evaluate(lambda x: logits, [batch], 2, world).num_images == 1


def test_a_run_that_diverges_in_its_first_epoch_saves_nothing(tiny, world, tmp_path, diverges):
    config = replace(tiny_config(tiny), **diverges, out=str(tmp_path / "run"))
    with pytest.raises(CollectiveError, match="the loss is not finite on"):
        fit(config, world)
    assert checkpoint.latest(tmp_path / "run") is None
    assert not list(tmp_path.rglob("*.params"))
    assert (tmp_path / "run/scores.jsonl").read_text() == ""


@pytest.mark.jobs
@pytest.mark.parametrize("num_ranks", [0, 2])
def test_all_ranks_of_a_job_end_with_one_message(tiny, tmp_path, num_ranks, diverges):
    flags = ["--model", "mobilenet0.25", "--image-size", "32"]
    flags += ["--data", str(tiny), "--out", str(tmp_path / "run")]
    for name, value in diverges.items():
        flags += ["--" + name.replace("_", "-"), str(value)]
    ended = run_job(["-m", "dist_ft.train", *flags], 60, num_ranks)
    assert ended.status == 1
    assert ended.output.count("dist_ft: the loss is not finite on") == 1, ended.output
    assert "bincount" not in ended.output and "rank 1" not in ended.output
    assert not list(tmp_path.rglob("*.params"))


def test_evaluate_and_export_reject_it(diverged, tiny, tmp_path, call):
    status, _, errors = call(evaluate_command, diverged, tiny, "--json", tmp_path / "scores")
    assert status == 1 and "dist_ft: the loss is not finite on" in errors
    for to, message in (
        ("gluon", "the network gives NaN or infinity"),
        ("int8", "the network (gives NaN|cannot be quantized)"),
    ):
        arguments = ("--to", to, "--data", tiny, "--out", tmp_path / to)
        status, _, errors = call(export_command, diverged, *arguments)
        assert status == 1 and "Traceback" not in errors
        assert re.search(message, errors), errors
    assert list(tmp_path.iterdir()) == []


def test_predict_marks_the_images_and_the_report_says_why_it_shows_none(
    diverged, tiny, tmp_path, call
):
    status, output, errors = call(predict_command, diverged, tiny / "test", "--format", "jsonl")
    rows = [json.loads(line) for line in output.splitlines()]
    bad = [row for row in rows if row["error"]]
    assert status == 1 and f"{len(bad)} of {len(rows)} images have an error" in errors
    assert {row["error"] for row in bad} == {"the network gives NaN or infinity for it"}
    assert all((row["label"] is None) == bool(row["error"]) for row in rows)
    assert "NaN," not in output
    status, _, _ = call(report_command, diverged, "--data", tiny, "--out", tmp_path / "r.html")
    assert status == 0 and "the loss is not finite on" in (tmp_path / "r.html").read_text()
