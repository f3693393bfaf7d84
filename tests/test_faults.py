"""When one rank comes to grief the whole job ends, soon, and says which rank and why."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from dist_ft.training import checkpoint
from tests.conftest import TINY, needs_mpi, run_job

LAUNCHERS = [pytest.param(False, id="gloo"), pytest.param(True, id="mpi", marks=needs_mpi)]
MANY_STEPS = [*TINY, "--epochs", "1000"]


def grief(kind, data, out, mpi, *flags, timeout_s=90, num_ranks=2):
    """The job's end, and the seconds from the fault to it. The fault is rank 1's, at step 4."""
    words = ["tests/workers/fault.py", kind, "1", "4", "--data", str(data), "--out", str(out)]
    ended = run_job([*words, *MANY_STEPS, *flags], timeout_s, num_ranks, mpi)
    since = re.search(r"rank 1 comes to grief at (\d+\.\d+)", ended.output)
    assert since, ended.output
    assert ended.status != 0
    return ended.output, time.time() - float(since.group(1))


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_an_exception_on_one_rank_ends_the_job_with_its_traceback_once(tiny, tmp_path, mpi):
    output, after_s = grief("exception", tiny, tmp_path, mpi)
    assert after_s < 10
    assert output.count("ZeroDivisionError: division by zero") == 1
    assert re.search(r"dist_ft: rank 1 of 2 on \S+: Traceback", output)


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_a_killed_rank_ends_the_job(tiny, tmp_path, mpi):
    output, after_s = grief("kill", tiny, tmp_path, mpi)
    assert after_s < 10
    assert re.search(r"[Kk]illed|status code 137|signal 9", output)


@pytest.mark.parametrize("mpi", LAUNCHERS)
def test_a_hanging_rank_and_those_that_wait_for_it_are_named(tiny, tmp_path, mpi):
    output, after_s = grief("hang", tiny, tmp_path, mpi, "--stall-timeout", "6")
    assert after_s < 6 + 20
    assert re.search(r"rank 1 of 2 on \S+: no progress for \d+ s at step 3 \(", output)
    assert re.search(r"rank 0 of 2 on \S+: no progress .* step 4, waiting for the other", output)
    assert "time.sleep(10_000)" in output


def test_a_frozen_rank_ends_the_job(tiny, tmp_path):
    output, after_s = grief("stop", tiny, tmp_path, False, "--stall-timeout", "6")
    assert after_s < 6 + 30
    assert re.search(r"rank 0 of 2 on \S+: no progress .* waiting for the other ranks", output)


@needs_mpi
def test_sigterm_on_one_rank_is_everyones_exit_status(tiny, tmp_path):
    output, after_s = grief("terminate", tiny, tmp_path, True)
    assert after_s < 20
    assert "stopped by SIGTERM before step 4" in output
    assert checkpoint.latest(tmp_path).step == 4


SELDOM, EACH_STEP = [], ["--save-every", "1"]


@pytest.mark.parametrize(
    "flags, told",
    [
        (SELDOM, r"the loss of step \d is not finite on rank [01] of 2 on"),
        (EACH_STEP, r"features\.\S+ is not finite after \d steps"),
    ],
)
def test_a_run_that_overflows_stops_on_all_ranks_and_nothing_of_it_is_saved(
    tiny, tmp_path, flags, told
):
    words = ["-m", "dist_ft.train", "--data", str(tiny), "--out", str(tmp_path), *MANY_STEPS]
    ended = run_job([*words, "--lr", "1e30", *flags], 90, num_ranks=2)
    assert ended.status != 0
    assert re.search(told, ended.output), ended.output
    assert ended.output.count("not finite") == 1
    kept = checkpoint.latest(tmp_path)
    for array in kept.net_arrays().values() if kept else ():
        assert np.isfinite(array.asnumpy()).all()


def test_a_rank_without_the_data_stops_all_with_one_message(tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *TINY]
    words = ["tests/workers/odd_one.py", "train", "1", "--data", str(tmp_path / "nowhere"), *flags]
    ended = run_job(words, 60, num_ranks=2)
    assert ended.status != 0
    assert ended.output.count("nowhere: no such folder") == 1
    assert "dist_ft/" not in ended.output  # no traceback of ours
