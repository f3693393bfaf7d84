"""What makes no progress is ended; what was only held up by another is not."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.conftest import ENVIRONMENT, REPO

PROGRAM = """
import sys, time
from dist_ft.distributed import watchdog
watch = watchdog.Watchdog(1.0, "rank 0", grace_s=1.0)
{body}
print("went on")
watch.close()
"""


def run(body: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(
        words, cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )


def test_a_process_that_makes_no_progress_is_ended_and_says_where_it_stands():
    ended = run("watch.heartbeat('step 7'); time.sleep(60)")
    assert ended.returncode == 1
    assert "rank 0: no progress for 1 s at step 7 (--stall-timeout 1)" in ended.stderr
    assert "MainThread" in ended.stderr


def test_one_that_goes_on_after_it_was_told_is_not_ended():
    ended = run("time.sleep(1.7)\nfor _ in range(4): watch.heartbeat('step 8'); time.sleep(0.5)")
    assert "no progress" in ended.stderr
    assert (ended.returncode, ended.stdout) == (0, "went on\n")


def test_the_time_spent_waiting_for_another_is_not_its_own():
    """As of a rank that waits in a collective until the one that hangs has been ended."""
    ended = run(
        "watch.extra_wait_s = 2.0\n"
        "try:\n"
        "    with watch.waiting(): time.sleep(2.2); raise ValueError\n"
        "except ValueError: time.sleep(0.7)\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "went on\n", "")


def test_a_fault_ends_the_process_by_its_signal_and_says_where_it_was():
    """Though MXNet is loaded, whose own handler of it may never come to an end."""
    fault = "def fault(): os.kill(os.getpid(), signal.SIGSEGV)\n"
    ended = run(f"import mxnet, os, signal\nwatchdog.Watchdog(30.0, 'rank 0')\n{fault}fault()")
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr and "in fault" in ended.stderr
