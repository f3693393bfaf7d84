"""A run gives the same result for any number of ranks, and all ranks fail together."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dist_ft.distributed import threads
from dist_ft.distributed.elastic_world import ElasticWorld
from dist_ft.distributed.horovod_settings import DEFAULTS
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.training import checkpoint
from tests.conftest import TINY, Ended, needs_mpi, run_command, run_job, train
from tests.workers import runs, world_checks

NUM_STEPS, BATCH_SIZE, NUM_TRAIN = 6, 24, 53
EPS = float(np.finfo(np.float32).eps)
# Each update adds a sum over the images of a step, which the ranks group differently: a relative
# error of one EPS per term. Parameters and updates are smaller than 1.
PARAMETER_TOLERANCE = NUM_STEPS * BATCH_SIZE * EPS
LOSS_RTOL = NUM_STEPS * NUM_TRAIN * EPS
# Gradients are rounded to these types in every step.
FLOAT16_TOLERANCE = NUM_STEPS * float(np.finfo(np.float16).eps)
BFLOAT16_TOLERANCE = NUM_STEPS * 2.0**-8

CHECKS = [name for name in vars(world_checks) if name.startswith("check_")]


class Job(NamedTuple):
    ended: Ended
    out: Path  # folder of its runs
    results: dict[str, Any]  # of workers/world.py


def run_worker(command: list[str], out: Path, *data: Path, num_ranks: int = 0) -> Job:
    out.mkdir()
    words = [*command, "tests/workers/world.py", str(out), *map(str, data)]
    ended = run_job(words, 240, num_ranks) if num_ranks else run_command(words, 120)
    results = out / "results.json"
    return Job(ended, out, json.loads(results.read_text()) if results.exists() else {})


@pytest.fixture(scope="module")
def broken(tiny, tmp_path_factory):
    """The tiny data set with two unreadable images."""
    data = tmp_path_factory.mktemp("broken") / "data"
    shutil.copytree(tiny, data)
    (data / "train" / "class_a" / "000.jpg").write_bytes(b"")
    (data / "test" / "class_b" / "001.jpg").write_bytes(b"not an image")
    return data


@pytest.fixture(scope="module")
def single(tiny, broken, tmp_path_factory):
    """The folder of a single process's runs."""
    out = tmp_path_factory.mktemp("single")
    world = World("cpu", stall_timeout_s=300)
    runs.train_all(world, str(tiny), str(broken), out)
    world.close()
    return out


@pytest.fixture(scope="module")
def three_ranks(tiny, broken, tmp_path_factory):
    out = tmp_path_factory.mktemp("three") / "out"
    return run_worker([], out, tiny, broken, num_ranks=3)


@pytest.fixture(scope="module")
def two_mpi_ranks(tmp_path_factory):
    """Started by mpirun itself; horovodrun --mpi is tested in test_faults.py."""
    mpirun = ["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none", sys.executable]
    return run_worker(mpirun, tmp_path_factory.mktemp("mpi") / "out")


def parameters(run):
    return {k: v.asnumpy() for k, v in checkpoint.latest(run).net_arrays().items()}


def scores(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def assert_same_parameters(run, expected_run, tolerance=PARAMETER_TOLERANCE):
    actual, expected = parameters(run), parameters(expected_run)
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.jobs
@pytest.mark.parametrize("name", CHECKS)
def test_three_ranks_started_by_gloo(three_ranks, name):
    assert name in three_ranks.results.get("checks", ()), three_ranks.ended.output


@pytest.mark.jobs
@needs_mpi
def test_two_ranks_started_by_mpirun(two_mpi_ranks):
    assert two_mpi_ranks.ended.status == 0, two_mpi_ranks.ended.output
    assert two_mpi_ranks.results["checks"] == CHECKS


@pytest.mark.jobs
@pytest.mark.parametrize("name", ["main", "small_batch", "unreadable"])
def test_three_ranks_end_with_the_parameters_of_a_single_process(single, three_ranks, name):
    assert three_ranks.ended.status == 0, three_ranks.ended.output
    assert_same_parameters(three_ranks.out / name, single / name)
    for arrays in (parameters(single / name), parameters(three_ranks.out / name)):
        assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.jobs
def test_three_ranks_report_the_scores_of_a_single_process(single, three_ranks):
    rows, expected_rows = scores(three_ranks.out / "main"), scores(single / "main")
    assert len(rows) == len(expected_rows) == 2
    for row, expected in zip(rows, expected_rows):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=LOSS_RTOL)
        assert row["test_loss"] == pytest.approx(expected["test_loss"], rel=LOSS_RTOL)
        assert row["train_accuracy"] == expected["train_accuracy"]
        assert row["confusion"] == expected["confusion"]


@pytest.mark.jobs
def test_every_test_image_is_counted_once(single, three_ranks):
    for out in (single, three_ranks.out):
        for row in scores(out / "main"):
            assert row["test_images"] == 101
            assert np.sum(row["confusion"], axis=1).tolist() == [21, 20, 20, 20, 20]


@pytest.mark.jobs
def test_unreadable_images_are_reported_and_not_counted(single, three_ranks):
    assert "000.jpg: the file is empty" in three_ranks.ended.output
    row, expected = (scores(out / "unreadable")[-1] for out in (three_ranks.out, single))
    assert row["test_images"] == expected["test_images"] == 100
    assert row["confusion"] == expected["confusion"]


@pytest.mark.jobs
def test_compressed_and_grouped_gradients_change_little(single, three_ranks):
    compressed = three_ranks.out / "compressed"
    assert_same_parameters(compressed, single / "main", FLOAT16_TOLERANCE)
    exact = parameters(single / "main")
    assert any((array != exact[name]).any() for name, array in parameters(compressed).items())


@pytest.mark.jobs
@pytest.mark.parametrize(
    "run, pattern",
    [
        ("different_settings", r"^\D+rank 2 of 3 on \S+ .*--lr: 0\.5 instead of 0\.05"),
        ("missing_data", r"^nowhere: no such folder[^\n]*$"),
        ("overflow", r"^the loss of step \d is not finite on rank [012] of 3 on"),
        ("overflow_when_saving", r"^features\.\S+ is not finite after \d steps"),
        ("divergence", r"after 2 steps.* features\.\S+ .*on rank 2 of 3 on"),
    ],
)
def test_an_error_on_one_rank_has_one_message_on_all(three_ranks, run, pattern):
    assert three_ranks.ended.status == 0, three_ranks.ended.output
    assert re.search(pattern, three_ranks.results["errors"][run])
    saved = checkpoint.latest(three_ranks.out / run)
    for array in saved.net_arrays().values() if saved else ():
        assert np.isfinite(array.asnumpy()).all()


@pytest.mark.cluster
def test_a_run_stopped_on_two_ranks_resumes_in_one_process(single, tiny, tmp_path):
    """SIGTERM arrives on one rank, in the middle of the second epoch."""
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *TINY]
    flags += ["--bn", "frozen", "--epochs", "2"]
    words = ["tests/workers/fault.py", "terminate", "1", "4", *flags]
    stopped = run_job(words, 120, num_ranks=2)
    assert "stopped by SIGTERM before step 4" in stopped.output
    # Of the first to end; horovodrun may be quicker to end the second than that one itself.
    assert f"status code {128 + signal.SIGTERM}" in stopped.output
    assert checkpoint.latest(tmp_path / "run").step == 4

    train(*flags)
    assert_same_parameters(tmp_path / "run", single / "main")
    last, expected = scores(tmp_path / "run")[-1], scores(single / "main")[-1]
    assert last["train_loss"] == pytest.approx(expected["train_loss"], rel=LOSS_RTOL)
    assert last["confusion"] == expected["confusion"]


@pytest.mark.jobs
@pytest.mark.skipif(not threads.has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_changes_a_run_little(single, tiny, tmp_path):
    """In a process of its own: MXNet's conversion to bfloat16 cannot be undone."""
    program = (
        "import sys; from pathlib import Path; from dist_ft.distributed.world import World;"
        "from tests.workers import runs;"
        "runs.train_bfloat16(World('cpu', 300), sys.argv[1], Path(sys.argv[2]))"
    )
    ended = run_job(["-c", program, str(tiny), str(tmp_path)], 120)
    assert ended.status == 0, ended.output
    assert_same_parameters(tmp_path / "bfloat16", single / "main", BFLOAT16_TOLERANCE)
    row, exact = scores(tmp_path / "bfloat16")[0], scores(single / "main")[0]
    assert row["train_loss"] == pytest.approx(exact["train_loss"], rel=BFLOAT16_TOLERANCE)
    assert row["train_loss"] != exact["train_loss"]
    assert all(array.dtype == np.float32 for array in parameters(tmp_path / "bfloat16").values())


def test_an_elastic_world_needs_an_elastic_launcher(monkeypatch):
    monkeypatch.delenv("HOROVOD_ELASTIC", raising=False)
    with pytest.raises(UserError, match="not started by launch/elastic.sh"):
        ElasticWorld("cpu", 300, DEFAULTS)
