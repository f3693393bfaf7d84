"""Which rank holds the others up, and with what.

Ranks wait for each other in every step, so one that is slow makes all of them take as long. Each
therefore measures what a step takes it by itself: its program, less all waiting for its device and
for the others; and its device, which works behind the program's back, in a few steps of an epoch
that it is waited for in, from an idle device to the step's gradients before they are summed.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Sequence

import mxnet as mx
import numpy as np

CLOCKED = 5  # steps of a long epoch; the device idles a few ms in each
CLOCKED_EVERY = 4  # steps at most: of a short epoch
# A median of the others is moved neither by the slow rank nor by a second one. Equal ranks differ
# by a few per cent; a shared core, a slow disk or a throttled card costs more than a fifth.
SLOWER = 1.2
LEAST_LOST_S = 1.0  # in an epoch: the steps of a shorter one are too few to judge by


class Reading(NamedTuple):
    """Seconds of a process, which only grow."""

    now_s: float
    data_s: float  # waited for batches
    device_s: float  # waited for its device
    ranks_s: float  # in collective calls


class Account(NamedTuple):
    """What the steps of an epoch took a rank, in seconds."""

    rank: int
    host: str
    num_steps: int
    wall_s: float
    data_s: float  # waited for batches
    program_s: float  # all but waiting for its device and for other ranks: data_s is a part of it
    device_step_s: float  # the gradients of a step; 0 where none was clocked

    @property
    def step_s(self) -> float:
        """A step by itself: program and device work at the same time, and the longer one counts."""
        return max(self.program_s / max(1, self.num_steps), self.device_step_s)

    def as_row(self) -> dict[str, Any]:
        """Where the epoch's steps went: waiting for data, for other ranks and their sums, the rest;
        for JSON."""
        own_s = min(self.wall_s, self.step_s * self.num_steps)
        return {
            "rank": self.rank,
            "host": self.host,
            "step_s": self.step_s,
            "data_s": self.data_s,
            "rest_s": max(0.0, own_s - self.data_s),
            "others_s": self.wall_s - own_s,
        }


class Clock:
    """Stops the time of a rank's steps, epoch after epoch; one alone is compared with nobody."""

    def __init__(self, num_ranks: int):
        self._is_alone = num_ranks == 1
        self.waited_s = 0.0  # for the device, in clocked steps
        self._since: float | None = None  # where the step under way is clocked
        self._steps, self._clocked, self._start = range(0), [], None

    def start_epoch(self, steps: range, start: Reading) -> None:
        self._steps, self._clocked, self._start = steps, [], start

    def start_step(self, step: int) -> None:
        """The ranks have agreed to make the step, and it begins."""
        if not self._is_alone and is_clocked(step - self._steps.start, len(self._steps)):
            self._since = self._idle_at()

    def has_gradients(self) -> None:
        """The step's gradients have been asked for."""
        if self._since is not None:
            self._clocked.append(self._idle_at() - self._since)
            self._since = None

    def account(self, rank: int, host: str, end: Reading) -> Account:
        """Of the epoch, whose steps are made."""
        wall_s, data_s, device_s, ranks_s = (b - a for a, b in zip(self._start, end))
        program_s = max(0.0, wall_s - device_s - ranks_s)
        device_step_s = float(np.median(self._clocked)) if self._clocked else 0.0
        return Account(rank, host, len(self._steps), wall_s, data_s, program_s, device_step_s)

    def _idle_at(self) -> float:
        since = time.perf_counter()
        mx.nd.waitall()
        now = time.perf_counter()
        self.waited_s += now - since
        return now


def is_clocked(position: int, num_steps: int) -> bool:
    """Whether a step is, by its place in an epoch: the same ones on all ranks, never the first,
    which compiles."""
    every = max(CLOCKED_EVERY, num_steps // CLOCKED)
    return position > 0 and position % every == min(every, num_steps) // 2


def find(accounts: Sequence[Account]) -> tuple[Account, float] | None:
    """The rank that holds the others up, if one does, and the median of their steps, s."""
    if len(accounts) < 2:
        return None
    slowest = max(accounts, key=lambda account: account.step_s)
    median_s = float(np.median([a.step_s for a in accounts if a is not slowest]))
    lost_s = (slowest.step_s - median_s) * slowest.num_steps
    is_slow = slowest.step_s > SLOWER * median_s and lost_s >= LEAST_LOST_S
    return (slowest, median_s) if is_slow else None


def word(accounts: Sequence[Account]) -> str | None:
    """A line that names that rank, what it spends the time on, and a remedy."""
    found = find(accounts)
    if found is None:
        return None
    slow, median_s = found
    return (
        f"rank {slow.rank} on {slow.host} holds the others up: a step takes it"
        f" {slow.step_s * 1e3:,.0f} ms by itself, the others {median_s * 1e3:,.0f} ms;"
        f" {_cause(slow, [a for a in accounts if a is not slow])}"
    )


def _cause(slow: Account, others: Sequence[Account]) -> str:
    """Where it takes longer than the others' median, most of all."""

    def excess(of: Any) -> float:
        return of(slow) - float(np.median([of(other) for other in others]))

    def program_s(account: Account) -> float:
        return (account.program_s - account.data_s) / max(1, account.num_steps)

    waits_s = excess(lambda account: account.data_s / max(1, account.num_steps))
    computes_s, idles_s = excess(lambda account: account.device_step_s), excess(program_s)
    if waits_s >= max(computes_s, idles_s):
        return "it waits for data: --cache ram or disk, or a quicker disk there"
    if computes_s >= idles_s / 2:  # Python's part of the gradients is in both
        return "it is slow to compute: see what else its cores or GPU do (top, nvidia-smi there)"
    return "it is slow between its steps: see what it writes, and what else its cores do"
