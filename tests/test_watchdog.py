"""The watchdog ends a process that makes no progress, and not one that waits for another."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.conftest import ENVIRONMENT, REPO

PROGRAM = """
import os, signal, sys, time
from dist_ft.distributed.watchdog import Watchdog
{body}
print("finished")
watchdog.close()
"""
SHORT = "watchdog = Watchdog(0.4, 'rank 0', grace_s=0.4)\n"


def run(body: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(
        command, cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )


def test_a_stalled_process_ends_and_reports_where_it_is():
    ended = run(SHORT + "watchdog.heartbeat('step 7'); time.sleep(60)")
    assert ended.returncode == 1
    message = r"rank 0: no progress for \d+ s at step 7 \(--stall-timeout 0\.4\).*\nMainThread:\n"
    assert re.search(message, ended.stderr)
    assert ended.stdout == ""


def test_progress_within_the_grace_period_saves_the_process():
    ended = run(
        "watchdog = Watchdog(0.4, 'rank 0', grace_s=30)\n"
        "time.sleep(1); watchdog.heartbeat('step 8', allowed_s=60)\n"
    )
    assert "no progress" in ended.stderr
    assert (ended.returncode, ended.stdout) == (0, "finished\n")


def test_a_heartbeat_may_allow_more_time():
    ended = run(SHORT + "watchdog.heartbeat('download', allowed_s=60); time.sleep(1.5)")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "finished\n", "")


def test_time_spent_in_a_collective_does_not_count_as_a_stall():
    """Such as that of a rank that waits until the one that hangs has been ended."""
    ended = run(
        "watchdog = Watchdog(1, 'rank 0', grace_s=0.4, extra_wait_s=30)\n"
        "try:\n"
        "    with watchdog.waiting(): time.sleep(1.5); raise ValueError\n"
        "except ValueError: pass\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "finished\n", "")


@pytest.mark.jobs
def test_a_crash_ends_the_process_by_its_signal_and_prints_the_stack():
    """Also with MXNet loaded, whose handlers may deadlock."""
    ended = run(
        "import mxnet\n"
        "watchdog = Watchdog(30, 'rank 0')\n"
        "def crash(): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "crash()"
    )
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr and "in crash" in ended.stderr
