"""Ends a process that makes no progress or crashes, after printing where each thread is.

Horovod's own stall check does nothing with the Gloo controller, and a rank that hangs makes all
others wait in a collective forever. Therefore every rank watches itself: the rank that hangs
prints where, and so do those that wait for it.
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

STDERR = 2  # the file descriptor, whatever sys.stderr is


class Watchdog:
    """Ends the process with status 1 when `heartbeat` is not called for `timeout_s` seconds.

    Attributes:
        extra_wait_s: added to the timeout while the process waits in a collective; for jobs that
            continue after the rank that hangs has been ended.
        where: the place of the last heartbeat.
    """

    def __init__(self, timeout_s: float, name: str, grace_s: float = 5.0, extra_wait_s: float = 0):
        """name: of the rank, for the message; grace_s: between the message and the end, since the
        end of this rank ends the others, which have a message to print, too."""
        self.timeout_s, self.name = timeout_s, name
        self.extra_wait_s = extra_wait_s
        self._grace_s = grace_s
        self._is_waiting = False  # in a collective
        self.where, self._allowed_s, self._last_beat_s = "start", timeout_s, time.monotonic()
        _handle_crashes()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self._arm()

    def heartbeat(self, where: str, allowed_s: float | None = None) -> None:
        """Reports progress.

        where: such as "step 17"; allowed_s: how long the next heartbeat may take (default:
        timeout_s).
        """
        self._allowed_s = allowed_s or self.timeout_s
        self.where, self._last_beat_s = where, time.monotonic()
        self._arm()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Marks a collective call.

        Counts as progress, even if it fails: the time spent in it was not this rank's own, and a
        rank that survives the hang of another must not be ended for it.
        """
        self._is_waiting = True
        try:
            yield
        finally:
            self._last_beat_s, self._is_waiting = time.monotonic(), False
            self._arm()

    def close(self) -> None:
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        """Sets the fallback: a C thread, which works even if Python's lock is held forever."""
        faulthandler.dump_traceback_later(
            self._allowed_s + self.extra_wait_s + 2 * self._grace_s,
            exit=True,
            file=STDERR,
        )

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.timeout_s / 4)):
            extra_s = self.extra_wait_s if self._is_waiting else 0.0
            last_beat_s = self._last_beat_s  # read after _is_waiting, as it is written before
            if time.monotonic() - last_beat_s > self._allowed_s + extra_s:
                self._report_stall(last_beat_s)

    def _report_stall(self, last_beat_s: float) -> None:
        """Prints the stacks, and ends the process if it makes no progress after all."""
        where = f"{self.where}, waiting for the other ranks" if self._is_waiting else self.where
        message = (
            f"dist_ft: {self.name}: no progress for {time.monotonic() - last_beat_s:.0f} s at"
            f" {where} (--stall-timeout {self.timeout_s:g}); stacks of its threads:\n{_stacks()}\n"
        )
        sys.stderr.write(message)  # in one call, since other ranks write to the same stream
        sys.stderr.flush()
        if not self._closed.wait(self._grace_s) and self._last_beat_s == last_beat_s:
            os._exit(1)


def _handle_crashes() -> None:
    """Makes a crash (SIGSEGV, ...) print the stacks and end the process by its signal.

    MXNet installs handlers that allocate memory for their message. If the crash was in the
    allocator, they wait forever for the lock that the process itself holds. Python's do not.
    """
    with suppress(ValueError):  # only the main thread may set handlers
        faulthandler.disable()  # else `enable` does nothing, although MXNet's handlers are set
        for signum in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE):
            signal.signal(signum, signal.SIG_DFL)
        faulthandler.enable(STDERR)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)  # who aborts has printed the reason


def _stacks() -> str:
    """The stacks of all threads but this one, the main thread's first."""
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda t: t is not threading.main_thread())
    return "\n".join(
        f"{thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threads
        if thread is not threading.current_thread() and thread.ident in frames
    )
