"""On a GPU: the same results as on a CPU, float16, and one rank per GPU."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from dist_ft.config import Config
from dist_ft.distributed import devices
from dist_ft.models import parameters, zoo
from dist_ft.training import checkpoint
from tests.conftest import ENVIRONMENT, TINY, run_job
from tests.gpus import with_gpus

# From Ampere on, cuDNN would round the inputs of convolutions to the 10 bits of TF32.
WITH_GPUS = {**with_gpus(ENVIRONMENT), "NVIDIA_TF32_OVERRIDE": "0"}
# Normalizing a few images by their own statistics amplifies rounding: with --bn train, two CPU
# libraries end 0.7 apart in the measure of `distance`, and 4e-6 with fixed statistics.
RUN = [*TINY, "--lr", "0.01", "--bn", "frozen"]
COUNT = "import mxnet as mx; print(mx.context.num_gpus())"


def run(*arguments, num_ranks=0, fails=False):
    # The first process may compile the GPU libraries for this device.
    job = run_job(list(arguments), 280, num_ranks, environment=WITH_GPUS)
    assert (job.status != 0) == fails, job.output
    return job.output


NUM_GPUS = int(run("-c", COUNT).split()[-1]) if devices.built_for_cuda() else 0
pytestmark = [
    pytest.mark.jobs,
    pytest.mark.skipif(NUM_GPUS == 0, reason="MXNet sees no GPU here"),
]


@pytest.fixture(scope="module")
def train(tiny, tmp_path_factory):
    """Trains in a folder of this name; returns the folder and the output."""
    root = tmp_path_factory.mktemp("gpu")

    def train(name, *flags, **job):
        out = ["--data", str(tiny), "--out", str(root / name)]
        return root / name, run("-m", "dist_ft.train", *RUN, *out, *flags, **job)

    return train


@pytest.fixture(scope="module")
def cpu(train):
    return train("cpu", "--device", "cpu")[0]


@pytest.fixture(scope="module")
def gpu(train):
    folder, output = train("gpu")
    assert "on 1 x gpu(0) in float32" in output
    return folder


def saved_arrays(folder):
    arrays = checkpoint.latest(folder).net_arrays()
    return {name: array.asnumpy() for name, array in arrays.items()}


def distance(folder, other_folder):
    """The distance of two runs' parameters, as a share of the distance from their start."""
    arrays, others = saved_arrays(folder), saved_arrays(other_folder)
    initial = parameters.arrays(zoo.build("mobilenet0.25", 5, 32, Config.seed))
    trained = [name for name in arrays if "running" not in name]
    apart = sum(np.sum((arrays[name] - others[name]) ** 2) for name in trained)
    moved = sum(np.sum((arrays[name] - initial[name].asnumpy()) ** 2) for name in trained)
    return np.sqrt(apart / moved)


def last_scores(folder):
    return json.loads((folder / "scores.jsonl").read_text().splitlines()[-1])


def test_training_on_a_gpu_equals_training_on_the_cpu(gpu, cpu):
    assert distance(gpu, cpu) < 1e-3
    scores, expected = last_scores(gpu), last_scores(cpu)
    assert scores["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)
    assert scores["test_images"] == expected["test_images"]


def test_batch_normalization_on_a_gpu_equals_that_on_the_cpu(train):
    flags = ["--bn", "train", "--max-steps", "1"]
    gpu, _ = train("bn-gpu", *flags)
    cpu, _ = train("bn-cpu", *flags, "--device", "cpu")
    expected = last_scores(cpu)["train_loss"]
    assert last_scores(gpu)["train_loss"] == pytest.approx(expected, rel=1e-4)


def test_float16_stays_close_to_float32_and_keeps_float32_parameters(train, gpu):
    folder, output = train("float16", "--dtype", "float16")
    assert "on 1 x gpu(0) in float16" in output
    assert {array.dtype for array in saved_arrays(folder).values()} == {np.dtype("float32")}
    assert 0 < distance(folder, gpu) < 0.1
    assert checkpoint.latest(folder).state.loss_scale[0] >= 1


def test_a_run_resumes_on_another_device(train):
    train("resumed", "--epochs", "2", "--max-steps", "3")
    _, on_cpu = train("resumed", "--epochs", "2", "--max-steps", "5", "--device", "cpu")
    assert "on 1 x cpu(0)" in on_cpu
    resumed, on_gpu = train("resumed", "--epochs", "2")
    assert "on 1 x gpu(0)" in on_gpu
    uninterrupted, _ = train("uninterrupted", "--epochs", "2", "--device", "cpu")
    assert distance(resumed, uninterrupted) < 1e-3


def test_a_gpu_predicts_and_scores_like_the_cpu(gpu, tiny, tmp_path):
    rows, scores = {}, {}
    for device in ("cpu", "gpu"):
        on_device, out = ["--device", device], tmp_path / device
        images = [str(gpu), str(tiny / "test"), "--output", f"{out}.jsonl"]
        run("-m", "dist_ft.predict", *images, *on_device)
        lines = out.with_suffix(".jsonl").read_text().splitlines()
        rows[device] = [json.loads(line) for line in lines]
        run("-m", "dist_ft.evaluate", str(gpu), str(tiny), "--json", f"{out}.json", *on_device)
        scores[device] = json.loads(out.with_suffix(".json").read_text())
    assert len(rows["gpu"]) == len(rows["cpu"]) == 101
    for row, expected in zip(rows["gpu"], rows["cpu"]):
        assert (row["path"], row["error"]) == (expected["path"], None)
        assert row["probability"] == pytest.approx(expected["probability"], rel=1e-3)
    assert scores["gpu"]["loss"] == pytest.approx(scores["cpu"]["loss"], rel=1e-3)


def test_one_rank_of_horovod_equals_one_process(train, gpu):
    pytest.importorskip("horovod")
    folder, output = train("horovod", num_ranks=1)
    assert "on 1 x gpu(0)" in output
    assert distance(folder, gpu) < 1e-3


def test_more_ranks_than_gpus_are_rejected(train):
    pytest.importorskip("horovod")
    _, output = train("too many", num_ranks=NUM_GPUS + 1, fails=True)
    assert re.search(rf"{NUM_GPUS + 1} ranks on \S+, which has {NUM_GPUS} GPUs", output)


def test_auto_chooses_a_type_that_the_gpu_supports(train):
    _, output = train("auto", "--dtype", "auto")
    assert re.search(r"on 1 x gpu\(0\) in float(16|32)", output)
