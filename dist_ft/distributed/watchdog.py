"""Ends a process that makes no progress, or that a fault stops, after saying where it stands.

Horovod's own stall check is silent without MPI, and a rank that hangs makes all others wait in a
collective for ever. So each rank watches itself: the one that hangs shows where, and so do those
that wait for it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from typing import Iterator

GRACE_S = 5.0  # for the other ranks to speak, before this one's end brings them down


class Watchdog:
    """Ends the process with status 1 when `at` is not called for `timeout_s` seconds."""

    def __init__(self, timeout_s: float, who: str):
        self.timeout_s = timeout_s
        self.who = who
        self.is_waiting = False  # in a collective
        self.waits_longer_s = 0.0  # then: where the end of the rank that hangs is not the job's
        self.place, self._allowed_s, self._last = "start", timeout_s, time.monotonic()
        _die_of_faults()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        self._arm()

    def heartbeat(self, place: str, allowed_s: float | None = None) -> None:
        """Progress: the process has come to a new place, such as "step 17", where it may stay for
        `allowed_s` (default: timeout_s)."""
        self._allowed_s = allowed_s or self.timeout_s
        self.place, self._last = place, time.monotonic()
        self._arm()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In a collective. However that ends, the time spent in it was not this rank's own: one
        that outlives another's hang is not to be ended for it."""
        self.is_waiting = True
        try:
            yield
        finally:
            self._last, self.is_waiting = time.monotonic(), False
            self._arm()

    def close(self) -> None:
        self._done.set()
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        # The second line of defence is a C thread: it works while Python's lock is held for ever.
        faulthandler.dump_traceback_later(
            self._allowed_s + self.waits_longer_s + 2 * GRACE_S, exit=True, file=sys.__stderr__
        )

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.timeout_s / 4)):
            longer_s = self.waits_longer_s * self.is_waiting
            last = self._last  # read after, as it is written before
            if time.monotonic() - last > self._allowed_s + longer_s:
                self._bark(last)

    def _bark(self, last: float) -> None:
        waited_s = time.monotonic() - last
        place = f"{self.place}, waiting for the other ranks" if self.is_waiting else self.place
        told = (
            f"dist_ft: {self.who}: no progress for {waited_s:.0f} s at {place} (--stall-timeout"
            f" {self.timeout_s:g}); its threads:\n{_stacks()}\n"
        )
        sys.stderr.write(told)  # in one piece, since other ranks write too
        sys.stderr.flush()
        if not self._done.wait(GRACE_S) and self._last == last:  # no progress meanwhile
            os._exit(1)


def _die_of_faults() -> None:
    """MXNet catches the signals of faults, and its handler takes memory in order to tell of them:
    where the fault was in taking memory, it waits for itself for ever. Python's does not, and tells
    where each thread was; the process then ends by the signal."""
    with suppress(ValueError):  # only the main thread sets handlers
        faulthandler.disable()  # or its handlers would count as set, though MXNet has taken them
        for signum in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE):
            signal.signal(signum, signal.SIG_DFL)
        faulthandler.enable(sys.__stderr__)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)  # of who aborts, who has said why


def _stacks() -> str:
    """Where each thread stands, the main one first."""
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda t: t is not threading.main_thread())
    return "\n".join(
        f"{thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threads
        if thread is not threading.current_thread() and thread.ident in frames
    )
