"""When a rank fails, the whole job ends, and the output says which rank and why.

Every fault happens in a real job of two ranks; docs/faults.md has the complete table. All jobs are
started by the first test, two at a time, since most of their time is spent waiting for a timeout.
"""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Dict, NamedTuple

import pytest

from dist_ft.training import checkpoint
from tests.conftest import HAS_MPI, TINY, Ended, needs_mpi, run_job

pytestmark = pytest.mark.cluster

GLOO, MPI = "gloo", "mpi"
LAUNCHERS = [GLOO, pytest.param(MPI, marks=needs_mpi)]
STALLS = ("hang", "stop")
STALL_TIMEOUT_S = 12  # a step must not take as long on a busy machine
FAULTS = [
    ("exception", GLOO),
    ("exception", MPI),
    ("kill", GLOO),
    ("kill", MPI),
    ("hang", GLOO),
    ("hang", MPI),
    ("stop", GLOO),
    ("terminate", MPI),
]
TIMEOUT_S = 120  # far below the 1000 epochs that each job would train


class Job(NamedTuple):
    ended: Ended
    out: Path


Jobs = Dict[tuple, "Future[Job]"]


@pytest.fixture(scope="module")
def jobs(tiny, tmp_path_factory) -> Jobs:
    """A job for each (fault, launcher); the fault happens on rank 1 before step 4."""
    root = tmp_path_factory.mktemp("faults")

    def run(fault: str, launcher: str) -> Job:
        out = root / f"{fault}-{launcher}"
        flags = ["--data", str(tiny), "--out", str(out), *TINY, "--epochs", "1000"]
        if fault in STALLS:
            flags += ["--stall-timeout", str(STALL_TIMEOUT_S)]
        words = ["tests/workers/fault.py", fault, "1", "4", *flags]
        return Job(run_job(words, TIMEOUT_S, num_ranks=2, mpi=launcher == MPI), out)

    faults = [(fault, launcher) for fault, launcher in FAULTS if launcher == GLOO or HAS_MPI]
    with ThreadPoolExecutor(2) as pool:
        return {fault: pool.submit(run, *fault) for fault in faults}


def output(jobs: Jobs, fault: str, launcher: str) -> str:
    ended, _ = jobs[fault, launcher].result()
    assert ended.status != 0
    assert "fault on rank 1" in ended.output, ended.output
    return ended.output


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_exception_ends_the_job_with_one_traceback(jobs, launcher):
    text = output(jobs, "exception", launcher)
    assert text.count("ZeroDivisionError: division by zero") == 1
    assert re.search(r"dist_ft: rank 1 of 2 on \S+: Traceback", text)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_rank_ends_the_job(jobs, launcher):
    assert re.search(r"[Kk]illed|status code 137|signal 9", output(jobs, "kill", launcher))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_hangs_and_one_that_waits_for_it_report_where_they_are(jobs, launcher):
    text = output(jobs, "hang", launcher)
    assert re.search(r"rank 1 of 2 on \S+: no progress for \d+ s at step 3 \(", text)
    assert re.search(r"rank 0 of 2 on \S+: no progress .* step 4, waiting for the other", text)
    assert "time.sleep(10_000)" in text  # in the stack of rank 1


def test_a_frozen_rank_ends_the_job(jobs):
    text = output(jobs, "stop", GLOO)
    assert re.search(r"rank 0 of 2 on \S+: no progress .* waiting for the other ranks", text)


@needs_mpi
def test_sigterm_on_one_rank_saves_the_run_and_stops_all(jobs):
    assert "stopped by SIGTERM before step 4" in output(jobs, "terminate", MPI)
    assert checkpoint.latest(jobs["terminate", MPI].result().out).step == 4
