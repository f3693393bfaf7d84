"""Signals that stop a run: they are remembered until all ranks can stop at the same step."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import Any, Iterator

# Signals that stop a run, with its exit status. If ranks receive different ones, the first wins.
# Batch systems send USR1 when a job's time is over; 75 (EX_TEMPFAIL) asks to be started again.
STOP_SIGNALS = {
    signal.SIGHUP: 128 + signal.SIGHUP,  # the terminal or the ssh connection was closed
    signal.SIGTERM: 128 + signal.SIGTERM,
    signal.SIGINT: 128 + signal.SIGINT,
    signal.SIGUSR1: 75,
}


class StopRequest:
    """Signal handler that remembers the first signal until the ranks stop together."""

    received: signal.Signals | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        if self.received == signum == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C stops at once
        self.received = self.received or signal.Signals(signum)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches the stop signals in the body, except a SIGHUP that `nohup` ignores."""
    request = StopRequest()
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    caught = [signum for signum in STOP_SIGNALS if not (is_nohup and signum == signal.SIGHUP)]
    old_handlers = {signum: signal.signal(signum, request) for signum in caught}
    try:
        yield request
    finally:
        for signum, handler in old_handlers.items():
            signal.signal(signum, handler)
