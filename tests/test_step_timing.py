"""training.step_timing: a slow rank is found, with the reason; equal ranks are not reported."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft.training import step_timing
from dist_ft.training.step_timing import RankTiming, find_slow_rank, slow_rank_message
from tests.conftest import TINY, needs_mpi, run_job

NUM_STEPS = 9  # of the epoch of a job with --batch-size 6
DELAY_S = 0.8  # per step, in workers/slow.py


def timing_of(rank, step_s, num_steps=100, data_s=0.0, device_step_s=0.0):
    return RankTiming(rank, "host", num_steps, 1e6, data_s, step_s * num_steps, device_step_s)


@pytest.mark.jobs
@pytest.mark.parametrize(
    "kind, slow_rank, mpi, reason, part",
    [
        ("data", 1, False, "it waits for data", "data_s"),
        pytest.param("step", 0, True, "its computation is slow", "rest_s", marks=needs_mpi),
    ],
)
def test_a_job_names_its_slow_rank_and_the_reason(
    tiny, tmp_path, kind, slow_rank, mpi, reason, part
):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *TINY]
    flags += ["--batch-size", "6", "--num-workers", "1"]
    command = ["tests/workers/slow.py", kind, str(slow_rank), *flags]
    ended = run_job(command, 120, num_ranks=2, mpi=mpi)
    assert ended.status == 0, ended.output
    (line,) = (line for line in ended.output.splitlines() if "slows the others down" in line)
    assert re.search(rf"rank {slow_rank} on \S+ slows the others down: its step takes [\d,]+", line)
    assert reason in line
    (row,) = map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())
    slow, other = row["ranks"][slow_rank], row["ranks"][1 - slow_rank]
    assert slow[part] > (NUM_STEPS - 2) * DELAY_S / 2  # the injected delay alone
    assert slow["others_s"] < other["others_s"]


@pytest.mark.parametrize(
    "slow, reason",
    [
        (timing_of(1, 3.0, data_s=290.0), "it waits for data"),
        (timing_of(1, 0.1, device_step_s=3.0), "its computation is slow"),
        (timing_of(1, 3.0, device_step_s=2.9), "its computation is slow"),  # the host waits
        (timing_of(1, 3.0), "it is slow between its steps"),
    ],
)
def test_the_reason_is_the_part_that_exceeds_the_others(slow, reason):
    message = slow_rank_message([timing_of(0, 0.1), slow, timing_of(2, 0.2)])
    assert message.startswith("rank 1 on host slows the others down: its step takes 3,000 ms")
    assert reason in message


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), st.integers(1, 1000))
def test_only_the_slowest_rank_is_found_and_only_if_it_is_much_slower(steps_s, num_steps):
    timings = [timing_of(rank, step_s, num_steps) for rank, step_s in enumerate(steps_s)]
    found = find_slow_rank(timings)
    if max(steps_s) <= step_timing.SLOW_RATIO * min(steps_s):
        assert found is None
    if found is not None:
        slow, median_s = found
        assert slow.step_s == max(timing.step_s for timing in timings)
        assert slow.step_s > step_timing.SLOW_RATIO * median_s
        assert num_steps * (slow.step_s - median_s) >= step_timing.MIN_LOST_S


@given(st.integers(4, 64), st.floats(0.1, 2), st.floats(1.5, 9), st.data())
def test_a_second_slow_rank_does_not_hide_the_slowest(size, step_s, factor, data):
    ranks = st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)
    slowest, second = data.draw(ranks)
    timings = [timing_of(rank, step_s) for rank in range(size)]
    timings[slowest] = timing_of(slowest, factor * step_s)
    timings[second] = timing_of(second, 0.9 * factor * step_s)
    found = find_slow_rank(timings)
    assert found is not None and found[0].rank == slowest


def test_short_epochs_are_not_judged():
    assert slow_rank_message([timing_of(0, 0.01, 5), timing_of(1, 0.1, 5)]) is None


@given(st.integers(1, 5000))
def test_a_few_steps_of_an_epoch_are_timed_and_never_the_first(num_steps):
    timed = [p for p in range(num_steps) if step_timing.is_timed(p, num_steps)]
    assert 0 not in timed
    assert (num_steps > 1) <= len(timed) <= max(2 * step_timing.NUM_TIMED, num_steps / 4 + 1)


@given(st.floats(0, 9), st.floats(0, 9), st.floats(0, 9), st.integers(1, 50))
def test_the_parts_of_an_epoch_add_up_to_all_of_it(data_s, host_s, device_step_s, num_steps):
    wall_s = data_s + host_s
    timing = RankTiming(0, "host", num_steps, wall_s, data_s, wall_s, device_step_s)
    times = timing.to_times()
    parts = (times.data_s, times.rest_s, times.others_s)
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(wall_s)
