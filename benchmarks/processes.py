"""Starts a contestant as a process of its own, and reads its result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

REPO = Path(__file__).resolve().parent.parent
RANK_TAG = re.compile(r"^\[\d+\]<std(out|err)>:", re.MULTILINE)  # horovodrun's prefix of lines
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # not inherited: each has its own default
ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception)\b|dist_ft: ")


class ContestantError(Exception):
    """A contestant has no result; is_missing: because a package is not installed."""

    def __init__(self, reason: str, is_missing: bool):
        super().__init__(reason)
        self.is_missing = is_missing


def run(
    program: str,
    flags: Sequence[str],
    num_ranks: int = 0,
    environ: Mapping[str, str] | None = None,
    python: str = sys.executable,
    timeout_s: float = 3600,
) -> dict[str, Any]:
    """The result that `python -m benchmarks.contestants.PROGRAM FLAGS` prints as a JSON line.

    num_ranks: 0 for a process without a launcher. environ: additional variables. Raises
    ContestantError.
    """
    command = [python, "-m", f"benchmarks.contestants.{program}", *flags]
    if num_ranks:
        # Not every machine has an entry for localhost in /etc/hosts.
        hosts = ["-np", str(num_ranks), "-H", f"127.0.0.1:{num_ranks}", "--gloo"]
        command = [str(Path(python).with_name("horovodrun")), *hosts, *command]
    inherited = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    path = f"{Path(python).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env={**inherited, "PATH": path, "PYTHONPATH": str(REPO), **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    out, err = (RANK_TAG.sub("", text) for text in _wait(process, timeout_s))
    results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not results:
        reason = f"status {process.returncode}: {_error_line(out, err)}"
        raise ContestantError(reason, "ModuleNotFoundError" in err)
    return results[-1]


def _wait(process: subprocess.Popen, timeout_s: float) -> tuple[str, str]:
    """Standard output and error; the process is ended after the timeout and on Ctrl-C."""
    try:
        return process.communicate(timeout=timeout_s)
    except BaseException as error:
        process.terminate()  # horovodrun ends its ranks
        try:
            out, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return out, f"{err}\nTimeoutError: not finished after {timeout_s:g} s"
        raise


def _error_line(out: str, err: str) -> str:
    """The first line that names an error: that of a rank comes before that of the launcher."""
    lines = [line.strip() for line in f"{out}\n{err}".splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or ["no output"])[0]
