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
# Normalising a few images by their own statistics amplifies rounding: with --bn train, two CPU
# libraries end 0.7 apart in the measure of `distance`, and 4e-6 with fixed statistics.
RUN = [*TINY, "--lr", "0.01", "--bn", "frozen"]
COUNT = "import mxnet as mx; print(mx.context.num_gpus())"
TIMEOUT_S = 280  # the first process may compile the GPU libraries for this device


def count_gpus() -> int:
    if not devices.built_for_cuda():
        return 0
    job = run_job(["-c", COUNT], TIMEOUT_S, environment=WITH_GPUS)
    assert job.status == 0, job.output
    return int(job.output.split()[-1])


NUM_GPUS = count_gpus()
pytestmark = [
    pytest.mark.jobs,
    pytest.mark.skipif(NUM_GPUS == 0, reason="MXNet sees no GPU here"),
]


def run(*arguments, num_ranks=0):
    return run_job(["-m", *arguments], TIMEOUT_S, num_ranks, environment=WITH_GPUS)


def run_to_end(*arguments, num_ranks=0):
    job = run(*arguments, num_ranks=num_ranks)
    assert job.status == 0, job.output
    return job.output


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


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The folder and the output of the same three steps on the CPU, on a GPU, and in float16."""
    root = tmp_path_factory.mktemp("gpu")
    flags = {"cpu": ["--device", "cpu"], "gpu": [], "float16": ["--dtype", "float16"]}
    outputs = {}
    for name, extra in flags.items():
        out = ["--data", str(tiny), "--out", str(root / name)]
        outputs[name] = run_to_end("dist_ft.train", *RUN, *out, *extra)
    return root, outputs


def test_a_gpu_is_used_if_there_is_one(runs):
    _, outputs = runs
    assert "on 1 x gpu(0) in float32" in outputs["gpu"]
    assert "on 1 x gpu(0) in float16" in outputs["float16"]
    assert "on 1 x cpu(0) in float32" in outputs["cpu"]


def test_training_on_a_gpu_equals_training_on_the_cpu(runs):
    root, _ = runs
    assert distance(root / "gpu", root / "cpu") < 1e-3
    gpu, cpu = last_scores(root / "gpu"), last_scores(root / "cpu")
    assert gpu["train_loss"] == pytest.approx(cpu["train_loss"], rel=1e-3)
    assert gpu["test_images"] == cpu["test_images"]


def test_batch_normalisation_on_a_gpu_equals_that_on_the_cpu(tiny, tmp_path):
    losses = {}
    for device in ("cpu", "gpu"):
        out = ["--data", str(tiny), "--out", str(tmp_path / device)]
        flags = [*TINY, *out, "--device", device, "--max-steps", "1"]
        run_to_end("dist_ft.train", *flags)
        losses[device] = last_scores(tmp_path / device)["train_loss"]
    assert losses["gpu"] == pytest.approx(losses["cpu"], rel=1e-4)


def test_float16_stays_close_to_float32_and_keeps_float32_parameters(runs):
    root, _ = runs
    dtypes = {array.dtype for array in saved_arrays(root / "float16").values()}
    assert dtypes == {np.dtype("float32")}
    assert 0 < distance(root / "float16", root / "gpu") < 0.1
    assert checkpoint.latest(root / "float16").state.loss_scale[0] >= 1


def test_a_run_resumes_on_another_device(runs, tiny, tmp_path):
    out = ["--data", str(tiny), "--out", str(tmp_path / "run"), *RUN, "--epochs", "2"]
    run_to_end("dist_ft.train", *out, "--max-steps", "3")
    resumed = run_to_end("dist_ft.train", *out, "--max-steps", "5", "--device", "cpu")
    assert "on 1 x cpu(0)" in resumed
    assert "on 1 x gpu(0)" in run_to_end("dist_ft.train", *out)
    uninterrupted = ["--data", str(tiny), "--out", str(tmp_path / "uninterrupted"), *RUN]
    run_to_end("dist_ft.train", *uninterrupted, "--epochs", "2", "--device", "cpu")
    assert distance(tmp_path / "run", tmp_path / "uninterrupted") < 1e-3


def test_a_gpu_predicts_and_scores_like_the_cpu(runs, tiny, tmp_path):
    root, _ = runs
    rows, scores = {}, {}
    for device in ("cpu", "gpu"):
        output = tmp_path / f"{device}.jsonl"
        images = [str(root / "gpu"), str(tiny / "test"), "--device", device]
        run_to_end("dist_ft.predict", *images, "--output", str(output))
        rows[device] = [json.loads(line) for line in output.read_text().splitlines()]
        output = tmp_path / f"{device}.json"
        data = [str(root / "gpu"), str(tiny), "--device", device]
        run_to_end("dist_ft.evaluate", *data, "--json", str(output))
        scores[device] = json.loads(output.read_text())
    assert len(rows["gpu"]) == len(rows["cpu"]) == 101
    for gpu, cpu in zip(rows["gpu"], rows["cpu"]):
        assert (gpu["path"], gpu["error"]) == (cpu["path"], None)
        assert gpu["probability"] == pytest.approx(cpu["probability"], rel=1e-3)
    assert scores["gpu"]["loss"] == pytest.approx(scores["cpu"]["loss"], rel=1e-3)


def test_one_rank_of_horovod_equals_one_process(runs, tiny, tmp_path):
    pytest.importorskip("horovod")
    root, _ = runs
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    assert "on 1 x gpu(0)" in run_to_end("dist_ft.train", *RUN, *out, num_ranks=1)
    assert distance(tmp_path / "run", root / "gpu") < 1e-3


def test_more_ranks_than_gpus_are_rejected(tiny, tmp_path):
    pytest.importorskip("horovod")
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    job = run("dist_ft.train", *RUN, *out, num_ranks=NUM_GPUS + 1)
    assert job.status != 0
    assert re.search(rf"{NUM_GPUS + 1} ranks on \S+, which has {NUM_GPUS} GPUs", job.output)


def test_auto_chooses_a_type_that_the_gpu_supports(tiny, tmp_path):
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    output = run_to_end("dist_ft.train", *RUN, *out, "--dtype", "auto")
    assert re.search(r"on 1 x gpu\(0\) in float(16|32)", output)
