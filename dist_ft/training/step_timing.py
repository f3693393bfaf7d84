"""Measures each rank's own step time and finds the rank that slows the others down.

Ranks wait for each other in every step, so one slow rank makes all of them slow. Each rank measures
two times of its own. Its host time is everything except waiting for its device or for other ranks.
Its device runs asynchronously, so in a few steps of an epoch the rank waits until the device is
idle, and measures the time until the step's gradients are ready to be reduced.
"""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Sequence

import mxnet as mx
import numpy as np

from dist_ft.data.loader import Loader
from dist_ft.distributed.world import World
from dist_ft.tracking.epoch_scores import RankTimes
from dist_ft.training.step_sync import StepSync

NUM_TIMED = 5  # steps of a long epoch; the device is idle for a few ms in each
MIN_TIMED_EVERY = 4  # steps, in a short epoch
# Equal ranks differ by a few percent; a shared core, a slow disk or a throttled GPU costs more than
# a fifth. The comparison is with the median of the others, so a second slow rank does not hide one.
SLOW_RATIO = 1.2
MIN_LOST_S = 1.0  # per epoch; shorter epochs have too few steps to judge by


class RankTiming(NamedTuple):
    """The times of one rank in the steps of an epoch, s."""

    rank: int
    host: str
    num_steps: int
    wall_s: float
    data_s: float  # waited for batches
    host_s: float  # all except waiting for the device or for other ranks; includes data_s
    device_step_s: float  # median until a step's gradients are ready; 0 if no step was timed

    @property
    def step_s(self) -> float:
        """Time of a step without other ranks: the longer of host and device, which overlap."""
        return max(self.host_s / max(1, self.num_steps), self.device_step_s)

    def to_times(self) -> RankTimes:
        """The epoch's time divided into waiting for data, waiting for other ranks, and the rest."""
        own_s = min(self.wall_s, self.step_s * self.num_steps)
        return RankTimes(
            rank=self.rank,
            host=self.host,
            step_s=self.step_s,
            data_s=self.data_s,
            rest_s=max(0.0, own_s - self.data_s),
            others_s=self.wall_s - own_s,
        )


class StepTimer:
    """Measures a rank's steps, one epoch after another. A single process times no device steps."""

    def __init__(self, world: World, sync: StepSync, loader: Loader):
        self._world, self._sync, self._loader = world, sync, loader
        self._waited_s = 0.0  # for the device, in timed steps
        self._steps = range(0)
        self._epoch_start = self._read()
        self._device_times: list[float] = []  # of the epoch's timed steps
        self._step_start: float | None = None  # of the current step, if it is timed

    def start_epoch(self, steps: range) -> None:
        self._steps, self._device_times, self._epoch_start = steps, [], self._read()

    def start_step(self, step: int) -> None:
        position = step - self._steps.start
        if self._world.size > 1 and is_timed(position, len(self._steps)):
            self._step_start = self._wait_for_device()

    def end_gradients(self) -> None:
        """To be called when the step's gradients have been computed, before they are reduced."""
        if self._step_start is not None:
            self._device_times.append(self._wait_for_device() - self._step_start)
            self._step_start = None

    def gather(self) -> list[RankTiming]:
        """The timing of every rank since `start_epoch`; all ranks call it."""
        world, num_steps = self._world, len(self._steps)
        wall_s, data_s, device_s, ranks_s = (self._read() - self._epoch_start).tolist()
        host_s = max(0.0, wall_s - device_s - ranks_s)
        step_s = float(np.median(self._device_times or [0.0]))
        timing = RankTiming(world.rank, world.host, num_steps, wall_s, data_s, host_s, step_s)
        return world.gather(timing)

    def _read(self) -> np.ndarray:
        """Now, and the time waited so far for batches, the device and other ranks, s."""
        device_s = self._sync.waited_s + self._waited_s
        times = time.perf_counter(), self._loader.waited_s, device_s, self._world.waited_s
        return np.array(times)

    def _wait_for_device(self) -> float:
        """Returns the time at which the device is idle."""
        start = time.perf_counter()
        mx.nd.waitall()
        end = time.perf_counter()
        self._waited_s += end - start
        return end


def is_timed(position: int, num_steps: int) -> bool:
    """True if the device is timed in the step at this position of an epoch.

    The same on all ranks, and never the first step, in which MXNet compiles the graph.
    """
    period = max(MIN_TIMED_EVERY, num_steps // NUM_TIMED)
    return position > 0 and position % period == min(period, num_steps) // 2


def find_slow_rank(timings: Sequence[RankTiming]) -> tuple[RankTiming, float] | None:
    """The rank that slows the others down and the median step time of the others, s, or None."""
    if len(timings) < 2:
        return None
    slowest = max(timings, key=lambda timing: timing.step_s)
    median_s = float(np.median([t.step_s for t in timings if t is not slowest]))
    lost_s = (slowest.step_s - median_s) * slowest.num_steps
    is_slow = slowest.step_s > SLOW_RATIO * median_s and lost_s >= MIN_LOST_S
    return (slowest, median_s) if is_slow else None


def slow_rank_message(timings: Sequence[RankTiming]) -> str | None:
    """A line that names the slow rank, what takes the time, and a remedy; None without one."""
    found = find_slow_rank(timings)
    if found is None:
        return None
    slow, median_s = found
    return (
        f"rank {slow.rank} on {slow.host} slows the others down: its step takes"
        f" {slow.step_s * 1e3:,.0f} ms, theirs {median_s * 1e3:,.0f} ms;"
        f" {_cause(slow, [timing for timing in timings if timing is not slow])}"
    )


def _cause(slow: RankTiming, others: Sequence[RankTiming]) -> str:
    """The part of a step that exceeds the others' median by most."""

    def excess_s(part_s: Callable[[RankTiming], float]) -> float:
        return part_s(slow) - float(np.median([part_s(other) for other in others]))

    data_s = excess_s(lambda timing: timing.data_s / max(1, timing.num_steps))
    host_s = excess_s(lambda timing: (timing.host_s - timing.data_s) / max(1, timing.num_steps))
    device_s = excess_s(lambda timing: timing.device_step_s)
    if data_s >= max(device_s, host_s):
        return "it waits for data: use --cache ram or disk, or a faster disk there"
    if device_s >= host_s / 2:  # the time to launch the gradients' operators is in both
        return "its computation is slow: see what else its cores or GPU do (top, nvidia-smi there)"
    return "it is slow between its steps: see what it writes, and what else its cores do"
