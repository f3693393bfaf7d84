"""straggler: the slow rank is named, and why; where none is slow, none is."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft.training import step_timing
from dist_ft.training.step_timing import Account
from tests.conftest import TINY, needs_mpi, run_job

GLOO, MPI = pytest.param(False, id="gloo"), pytest.param(True, id="mpi", marks=needs_mpi)
STEPS = 9  # of a run's epoch
LATE_S = 0.8  # of a step, in workers/slow.py
MORE_STEPS = ["--batch-size", "6", "--num-workers", "1"]


def an_account(rank, step_s, num_steps=100, data_s=0.0):
    return Account(rank, "host", num_steps, 1e6, data_s, step_s * num_steps, 0.0)


def slow_run(kind, rank, data, out, num_ranks, mpi, more=MORE_STEPS):
    """The lines that name a rank, and the ranks' rows of the epoch."""
    flags = ["--data", str(data), "--out", str(out), *TINY, *more]
    ended = run_job(["tests/workers/slow.py", kind, str(rank), *flags], 120, num_ranks, mpi)
    assert ended.status == 0, ended.output
    (row,) = map(json.loads, (out / "scores.jsonl").read_text().splitlines())
    assert [told["rank"] for told in row["ranks"]] == list(range(num_ranks))
    named = [line for line in ended.output.splitlines() if "holds the others up" in line]
    return named, row["ranks"]


@pytest.mark.parametrize(
    "kind, rank, num_ranks, mpi, why",
    [
        pytest.param("data", 1, 3, False, "it waits for data", id="data-of-three"),
        pytest.param("device", 0, 2, False, "it is slow to compute", id="device"),
        pytest.param("step", 1, 2, False, "it is slow to compute", id="step"),
        pytest.param("between", 0, 2, False, "it is slow between its steps", id="between"),
        pytest.param("data", 0, 2, True, "it waits for data", id="data-mpi", marks=needs_mpi),
        pytest.param("step", 1, 2, True, "it is slow to compute", id="step-mpi", marks=needs_mpi),
    ],
)
def test_a_slow_rank_is_named_with_what_it_spends_its_steps_on(
    tiny, tmp_path, kind, rank, num_ranks, mpi, why
):
    (line,), rows = slow_run(kind, rank, tiny, tmp_path, num_ranks, mpi)
    assert re.search(rf"rank {rank} on \S+ holds the others up: a step takes it [\d,]+ ms by", line)
    assert why in line
    slow, others = rows[rank], [row for row in rows if row["rank"] != rank]
    if kind != "device":  # whose work depends on the machine
        assert slow["data_s" if kind == "data" else "rest_s"] > (STEPS - 2) * LATE_S / 2
    assert slow["others_s"] < min(row["others_s"] for row in others)


@pytest.mark.parametrize("mpi", [GLOO, MPI])
def test_no_rank_is_named_where_all_are_alike(tiny, tmp_path, mpi):
    named, _ = slow_run("none", 0, tiny, tmp_path, 2, mpi, more=())  # short, if the machine is busy
    assert named == []


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=20),
    st.integers(1, 1000),
)
def test_only_the_slowest_is_named_and_only_far_from_the_others(steps_s, num_steps):
    accounts = [an_account(rank, step_s, num_steps) for rank, step_s in enumerate(steps_s)]
    found = step_timing.find(accounts)
    if max(steps_s) <= step_timing.SLOWER * min(steps_s):
        assert found is None
    if found is not None:
        slow, median_s = found
        assert slow.step_s == max(account.step_s for account in accounts)
        assert slow.step_s > step_timing.SLOWER * median_s
        assert num_steps * (slow.step_s - median_s) >= step_timing.LEAST_LOST_S


@given(st.integers(3, 64), st.floats(0.1, 2), st.floats(1.5, 9), st.data())
def test_a_slow_rank_is_found_beside_another_one(size, step_s, times, data):
    slow, second = data.draw(
        st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)
    )
    accounts = [an_account(rank, step_s) for rank in range(size)]
    accounts[slow] = an_account(slow, times * step_s)
    if size > 3:  # of three, the median of two others is half way to the second
        accounts[second] = an_account(second, 0.9 * times * step_s)
    found = step_timing.find(accounts)
    assert found is not None and found[0].rank == slow


def test_short_epochs_are_not_judged():
    assert step_timing.find([an_account(0, 0.01, 3), an_account(1, 0.1, 3)]) is None


@given(st.integers(1, 5000))
def test_a_few_steps_of_an_epoch_are_clocked_and_never_the_first(num_steps):
    clocked = [p for p in range(num_steps) if step_timing.is_clocked(p, num_steps)]
    assert 0 not in clocked
    assert (num_steps > 1) <= len(clocked) <= max(2 * step_timing.CLOCKED, num_steps / 4 + 1)


@given(st.floats(0, 9), st.floats(0, 9), st.floats(0, 9), st.integers(1, 50))
def test_the_parts_of_an_epoch_are_all_of_it(data_s, program_s, device_step_s, num_steps):
    wall_s = data_s + program_s
    row = Account(0, "host", num_steps, wall_s, data_s, wall_s, device_step_s).as_row()
    parts = row["data_s"], row["rest_s"], row["others_s"]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(wall_s)
