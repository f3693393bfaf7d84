"""Kills this process if it is frozen (SIGSTOP, a paused container), which its watchdog cannot."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress

# Reads lines until none arrives in $1 seconds. `read` then returns a status above 128; at the end
# of its input, where the guarded process has ended, a lower one.
SCRIPT = """
trap '' INT TERM
while read -r -t "$1"; status=$?; [ $status = 0 ]; do :; done
[ $status -le 128 ] || kill -KILL "$2"
"""


class FreezeGuard:
    """A child process that this one reports to; without reports it sends SIGKILL.

    Elastic jobs need it: Horovod's driver waits for all ranks of the old world to end or to
    reconnect before it lets the others continue.
    """

    def __init__(self, timeout_s: float):
        command = ["bash", "-c", SCRIPT, "freeze_guard", str(timeout_s), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._closed = threading.Event()
        self._report_every_s = timeout_s / 4
        threading.Thread(target=self._report, name="freeze_guard", daemon=True).start()

    def _report(self) -> None:
        assert self._process.stdin
        while not self._closed.wait(self._report_every_s):
            with suppress(BrokenPipeError):
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()

    def close(self) -> None:
        self._closed.set()
        self._process.kill()
        self._process.wait()
