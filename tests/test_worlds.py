"""A run does not depend on the number of processes that carry it."""

from __future__ import annotations

import json
import re
import signal
import sys

import mxnet as mx
import numpy as np
import pytest

from dist_ft.distributed import threads
from dist_ft.training import checkpoint
from tests.conftest import REPO, TINY, needs_mpi, run_command, run_job, train

FROZEN = [*TINY, "--bn", "frozen", "--epochs", "2"]


def parameters(run):
    return {k: v.asnumpy() for k, v in checkpoint.latest(run).net_arrays().items()}


def scores(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """The same run by one process and by 2, 3 and 4 ranks; 3 steps an epoch, the last one short."""
    root = tmp_path_factory.mktemp("runs")
    for size in (1, 2, 3, 4):
        flags = ["--data", str(tiny), "--out", str(root / str(size)), *FROZEN]
        train(*flags, num_ranks=0 if size == 1 else size)
    return {size: root / str(size) for size in (1, 2, 3, 4)}


@pytest.mark.parametrize("size", [2, 3, 4])
def test_many_ranks_end_with_the_parameters_of_one(runs, size):
    one, many = parameters(runs[1]), parameters(runs[size])
    assert one.keys() == many.keys()
    for name in one:
        np.testing.assert_allclose(many[name], one[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_many_ranks_print_the_scores_of_one(runs, size):
    for one, many in zip(scores(runs[1]), scores(runs[size])):
        assert many["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert many["train_accuracy"] == one["train_accuracy"]
        assert many["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_test_image_is_counted_once(runs, size):
    for row in scores(runs[size]):
        assert row["test_images"] == 101
        assert np.sum(row["confusion"], axis=1).tolist() == [21, 20, 20, 20, 20]
        assert row["confusion"] == scores(runs[1])[row["epoch"] - 1]["confusion"]


@pytest.fixture(scope="module")
def found_out():
    """What three ranks found out together: the lines of workers/world.py."""
    return run_job(["tests/workers/world.py"], timeout_s=120, num_ranks=3)


CHECKS = re.findall(
    r"^def (check_\w+)", (REPO / "tests/workers/world.py").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("name", CHECKS)
def test_three_ranks_together(found_out, name):
    assert f"ok {name}" in found_out.output, found_out.output
    assert found_out.status == 0


@needs_mpi
@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_ranks_that_mpi_starts_find_out_the_same(launcher):
    if launcher == "mpirun":
        mpirun = ["mpirun", "-np", "2", "--oversubscribe", "--bind-to", "none", sys.executable]
        ended = run_command([*mpirun, "tests/workers/world.py"], timeout_s=120)
    else:
        ended = run_job(["tests/workers/world.py"], timeout_s=120, num_ranks=2, mpi=True)
    assert ended.status == 0, ended.output
    assert all(f"ok {name}" in ended.output for name in CHECKS)


def test_a_run_stopped_on_two_ranks_goes_on_with_three(runs, tiny, tmp_path):
    """SIGTERM on one rank, in the middle of the second epoch; the rest is for another number."""
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *FROZEN]
    words = ["tests/workers/fault.py", "terminate", "1", "4", *flags]
    stopped = run_job(words, timeout_s=120, num_ranks=2)
    assert stopped.status != 0
    assert "stopped by SIGTERM before step 4" in stopped.output
    # Of the first to end; horovodrun may be quicker to end the second than that one itself.
    assert f"status code {128 + signal.SIGTERM}" in stopped.output
    assert checkpoint.latest(tmp_path / "run").step == 4

    ended = train(*flags, num_ranks=3)
    assert "resuming from" in ended.output
    whole, resumed = parameters(runs[1]), parameters(tmp_path / "run")
    for name in whole:
        np.testing.assert_allclose(resumed[name], whole[name], rtol=0, atol=1e-5, err_msg=name)
    last, last_of_one = scores(tmp_path / "run")[-1], scores(runs[1])[-1]
    assert last["train_loss"] == pytest.approx(last_of_one["train_loss"], rel=1e-4)
    assert last["confusion"] == last_of_one["confusion"]


def test_compressed_and_grouped_gradients_are_nearly_the_same(runs, tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *FROZEN, "--compression", "fp16"]
    train(*flags, "--num-groups", "3", "--fusion-mb", "8", "--cycle-ms", "2", num_ranks=2)
    one, halves = parameters(runs[1]), parameters(tmp_path)
    for name in one:
        np.testing.assert_allclose(halves[name], one[name], rtol=0, atol=5e-3, err_msg=name)
    assert any((halves[name] != one[name]).any() for name in one)


@pytest.mark.skipif(not threads.has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_is_nearly_the_same_run_on_one_rank_and_on_two(runs, tiny, tmp_path):
    for size in (0, 2):
        out = tmp_path / str(size)
        train(
            *("--data", str(tiny), "--out", str(out), *FROZEN, "--dtype", "bfloat16"),
            num_ranks=size,
        )
        for row, exact in zip(scores(out), scores(runs[1])):
            assert row["train_loss"] == pytest.approx(exact["train_loss"], rel=0.02)
        for name, exact in parameters(runs[1]).items():
            ours = parameters(out)[name]
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, exact, rtol=0, atol=0.02, err_msg=name)
    assert scores(tmp_path / "0")[0]["train_loss"] != scores(runs[1])[0]["train_loss"]


def test_more_ranks_than_images_a_step_do_what_one_does(tiny, tmp_path):
    flags = ["--data", str(tiny), *FROZEN, "--batch-size", "2", "--max-steps", "3"]
    for size in (0, 3):
        train(*flags, "--out", str(tmp_path / str(size)), num_ranks=size)
    one, three = parameters(tmp_path / "0"), parameters(tmp_path / "3")
    for name in one:
        np.testing.assert_allclose(three[name], one[name], rtol=0, atol=1e-5, err_msg=name)


def test_ranks_that_were_started_unlike_stop_and_name_the_difference(tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *TINY]
    ended = run_job(
        ["tests/workers/odd_one.py", "train", "1", "--lr", "0.5", *flags], 120, num_ranks=2
    )
    assert ended.status != 0
    assert "the ranks do not have the same run" in ended.output
    assert re.search(
        r"rank 1 of 2 on \S+ differs from rank 0 in --lr: 0.5 instead of 0.05", ended.output
    )
    assert not (tmp_path / "checkpoints").exists()


def test_ranks_whose_parameters_part_stop_and_name_the_first(tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *TINY, "--check-every", "1"]
    ended = run_job(["tests/workers/fault.py", "part", "1", "1", *flags], 120, num_ranks=2)
    assert ended.status != 0
    assert re.search(
        r"after 2 steps features\.\S+ on rank 1 of 2 on \S+ differs from rank 0", ended.output
    )


def test_unreadable_images_weigh_nothing_on_any_number_of_ranks(tiny, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(tiny, data)
    (data / "train" / "class_a" / "000.jpg").write_bytes(b"")
    (data / "test" / "class_b" / "001.jpg").write_bytes(b"not an image")
    for size in (0, 2):
        flags = ["--data", str(data), "--out", str(tmp_path / str(size)), *FROZEN]
        ended = train(*flags, "--max-bad-share", "0.1", num_ranks=size)
        assert "000.jpg: the file is empty" in ended.output
        assert "left out 2 unreadable images" in ended.output
    one, two = parameters(tmp_path / "0"), parameters(tmp_path / "2")
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)
    assert scores(tmp_path / "2")[-1]["test_images"] == 100
    assert scores(tmp_path / "2")[-1]["confusion"] == scores(tmp_path / "0")[-1]["confusion"]


def test_the_arrays_of_a_checkpoint_are_finite(runs):
    for arrays in map(parameters, runs.values()):
        assert all(np.isfinite(array).all() for array in arrays.values())
    assert mx.nd.load(str(checkpoint.latest(runs[1]).path / "net.params"))
