"""One contestant: a program of its own, started, waited for, and read."""

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
TAG = re.compile(r"^\[\d+\]<std(out|err)>:", re.MULTILINE)  # horovodrun's, before a rank's lines
OPEN_MP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # each contestant's own default, unless it is told


class Left(Exception):
    """A contestant has given no numbers; the message says why.

    is_missing: whether that is for want of a package, and so no failure.
    """

    def __init__(self, reason: str, is_missing: bool):
        super().__init__(reason)
        self.is_missing = is_missing


def launched(
    module: str,
    words: Sequence[str],
    num_ranks: int = 0,
    environ: Mapping[str, str] | None = None,
    python: str = sys.executable,
    timeout_s: float = 3600,
) -> list[dict[str, Any]]:
    """What `python -m benchmarks.contestants.MODULE WORDS` prints, a dictionary for each JSON line.

    num_ranks: where given, so many of them by horovodrun. environ: what the contestant has in
    addition to this process's environment. Raises Left.
    """
    command = [python, "-m", f"benchmarks.contestants.{module}", *words]
    if num_ranks:
        # 127.0.0.1: not every machine has a line for localhost in /etc/hosts.
        where = ["-np", str(num_ranks), "-H", f"127.0.0.1:{num_ranks}", "--gloo"]
        command = [str(Path(python).with_name("horovodrun")), *where, *command]
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env=_environment(python, environ or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    out, err = _ended(process, timeout_s)
    out, err = TAG.sub("", out), TAG.sub("", err)
    told = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not told:
        raise Left(_reason(process.returncode, out, err), "ModuleNotFoundError" in err)
    return told


def _environment(python: str, more: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in OPEN_MP}
    path = f"{Path(python).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return {**inherited, "PATH": path, "PYTHONPATH": str(REPO), **more}


def _ended(process: subprocess.Popen, timeout_s: float) -> tuple[str, str]:
    """Both streams of a process that has ended, by itself or, too late or interrupted, by force."""
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
            return out, f"{err}\nnot over after {timeout_s:g} s"
        raise


def _reason(status: int, out: str, err: str) -> str:
    """The line that an error ends with: of a rank, not of the launcher, where there are both."""
    lines = [line.strip() for line in f"{out}\n{err}".splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b|dist_ft: ", line)]
    return f"status {status}: {(errors or lines or ['it says nothing'])[0]}"
