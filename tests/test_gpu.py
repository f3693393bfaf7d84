"""On a GPU: what the CPU computes, also in float16, and no more ranks than there are GPUs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from dist_ft.config import Config
from dist_ft.distributed import devices
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.training import checkpoint
from tests.conftest import ENVIRONMENT, TINY, run_job
from tests.gpus import with_gpus

# From Ampere on, cuDNN would round what it convolves to TF32's 10 bits.
WITH_GPUS = {**with_gpus(ENVIRONMENT), "NVIDIA_TF32_OVERRIDE": "0"}
# Batches of a few images, drawn at random and normalised by themselves, make noise of any rounding:
# two CPU libraries then end 0.7 of the way apart, and 4e-6 of it where the statistics are fixed.
RUN = [*TINY, "--lr", "0.01", "--bn", "frozen"]
COUNT = "import mxnet as mx; print(mx.context.num_gpus())"
# A GPU's libraries are megabytes of machine code, which the first process may compile for it.
TIMEOUT_S = 280


def count_gpus() -> int:
    if not devices.built_for_cuda():
        return 0
    answer = run_job(["-c", COUNT], TIMEOUT_S, environment=WITH_GPUS)
    assert answer.status == 0, answer.output
    return int(answer.output.split()[-1])


NUM_GPUS = count_gpus()
pytestmark = pytest.mark.skipif(NUM_GPUS == 0, reason="MXNet sees no GPU here")


def job(*words, num_ranks=0):
    return run_job(["-m", *words], TIMEOUT_S, num_ranks, environment=WITH_GPUS)


def finished(*words, num_ranks=0):
    ended = job(*words, num_ranks=num_ranks)
    assert ended.status == 0, ended.output
    return ended.output


def parameters(run):
    return {k: v.asnumpy() for k, v in checkpoint.latest(run).net_arrays().items()}


def distance(run, other):
    """How far apart two runs' networks are, of the way that one has come from where both began."""
    ours, theirs = parameters(run), parameters(other)
    start = parameters_by_path(zoo.build("mobilenet0.25", 5, 32, Config.seed))
    learned = [name for name in ours if "running" not in name]
    apart, way = (
        np.sqrt(sum(np.sum((ours[name] - place[name]) ** 2) for name in learned))
        for place in (theirs, {name: array.data().asnumpy() for name, array in start.items()})
    )
    return apart / way


def last_row(run):
    return json.loads((run / "scores.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The same run of three steps by the CPU, by a GPU, and by one in float16."""
    root = tmp_path_factory.mktemp("gpu")
    said = {}
    for name, flags in {
        "cpu": ["--device", "cpu"],
        "gpu": [],
        "float16": ["--dtype", "float16"],
    }.items():
        out = ["--data", str(tiny), "--out", str(root / name)]
        said[name] = finished("dist_ft.train", *RUN, *out, *flags)
    return root, said


def test_a_gpu_is_taken_where_there_is_one(runs):
    _, said = runs
    assert "on 1 x gpu(0) in float32" in said["gpu"]
    assert "on 1 x gpu(0) in float16" in said["float16"]
    assert "on 1 x cpu(0) in float32" in said["cpu"]


def test_a_gpu_makes_the_steps_that_the_cpu_makes(runs):
    root, _ = runs
    assert distance(root / "gpu", root / "cpu") < 1e-3
    ours, theirs = last_row(root / "gpu"), last_row(root / "cpu")
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    assert ours["test_images"] == theirs["test_images"]


def test_batch_normalisation_is_the_same_on_a_gpu(tiny, tmp_path):
    losses = {}
    for where in ("cpu", "gpu"):
        out = tmp_path / where
        finished(
            *("dist_ft.train", *TINY, "--data", str(tiny), "--out", str(out), "--device", where),
            *("--max-steps", "1"),
        )
        losses[where] = last_row(out)["train_loss"]
    assert losses["gpu"] == pytest.approx(losses["cpu"], rel=1e-4)


def test_float16_is_near_float32_and_keeps_its_parameters_in_it(runs):
    root, _ = runs
    assert {array.dtype for array in parameters(root / "float16").values()} == {np.dtype("float32")}
    assert 0 < distance(root / "float16", root / "gpu") < 0.1
    assert checkpoint.latest(root / "float16").state["loss_scale"][0] >= 1


def test_a_run_goes_on_on_another_device(runs, tiny, tmp_path):
    """A checkpoint names no device: what a GPU began the CPU ends, and the other way round."""
    out = str(tmp_path / "run")
    epochs = ["--data", str(tiny), "--out", out, *RUN]
    finished("dist_ft.train", *epochs, "--epochs", "2", "--max-steps", "3")
    assert "on 1 x cpu(0)" in finished(
        "dist_ft.train", *epochs, "--epochs", "2", "--max-steps", "5", "--device", "cpu"
    )
    assert "on 1 x gpu(0)" in finished("dist_ft.train", *epochs, "--epochs", "2")
    straight = tmp_path / "straight"
    whole = ["--data", str(tiny), "--out", str(straight), *RUN, "--epochs", "2"]
    finished("dist_ft.train", *whole, "--device", "cpu")
    assert distance(tmp_path / "run", straight) < 1e-3


def test_a_gpu_predicts_and_scores_as_the_cpu_does(runs, tiny, tmp_path):
    root, _ = runs
    tables, scores = {}, {}
    for where in ("cpu", "gpu"):
        run = [str(root / "gpu"), str(tiny / "test"), "--device", where]
        table = tmp_path / f"{where}.jsonl"
        finished("dist_ft.predict", *run, "--output", str(table))
        tables[where] = [json.loads(line) for line in table.read_text().splitlines()]
        run = [str(root / "gpu"), str(tiny), "--device", where]
        finished("dist_ft.evaluate", *run, "--json", str(tmp_path / f"{where}.json"))
        scores[where] = json.loads((tmp_path / f"{where}.json").read_text())
    assert len(tables["gpu"]) == len(tables["cpu"]) == 101
    for ours, theirs in zip(tables["gpu"], tables["cpu"]):
        assert (ours["path"], ours["error"]) == (theirs["path"], None)
        assert ours["probability"] == pytest.approx(theirs["probability"], rel=1e-3)
    assert scores["gpu"]["loss"] == pytest.approx(scores["cpu"]["loss"], rel=1e-3)


def test_one_rank_of_horovods_is_one_process(runs, tiny, tmp_path):
    pytest.importorskip("horovod")
    root, _ = runs
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    assert "on 1 x gpu(0)" in finished("dist_ft.train", *RUN, *out, num_ranks=1)
    assert distance(tmp_path / "run", root / "gpu") < 1e-3


def test_more_ranks_than_gpus_are_refused(tiny, tmp_path):
    pytest.importorskip("horovod")
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    ended = job("dist_ft.train", *RUN, *out, num_ranks=NUM_GPUS + 1)
    assert ended.status != 0
    assert re.search(rf"{NUM_GPUS + 1} ranks on \S+, which has {NUM_GPUS} GPUs", ended.output)


def test_bfloat16_is_refused(tiny, tmp_path):
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    ended = job("dist_ft.train", *RUN, *out, "--dtype", "bfloat16")
    assert ended.status == 1
    assert "--dtype bfloat16: needs a CPU" in ended.output


def test_the_quickest_type_is_measured(tiny, tmp_path):
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    said = finished("dist_ft.train", *RUN, *out, "--dtype", "auto")
    assert re.search(r"on 1 x gpu\(0\) in float(16|32)", said)


def test_doctor_knows_the_gpu(tiny):
    said = job("dist_ft.doctor", "--data", str(tiny), "--image-size", "32").output
    assert "this one on gpu(0)" in said
