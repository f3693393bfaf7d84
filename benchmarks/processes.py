"""Starts a contestant as a process of its own, reads its result, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Sequence

import psutil

REPO = Path(__file__).resolve().parent.parent
RANK_TAG = re.compile(r"^\[\d+\]<std(out|err)>:", re.MULTILINE)  # horovodrun's prefix of lines
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # not inherited: each has its own default
GRACE_S = 10  # between SIGTERM and SIGKILL
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
    ContestantError. Ctrl-C and SIGTERM, which becomes SystemExit(143), end the contestant with all
    of its processes first.
    """
    command = [python, "-m", f"benchmarks.contestants.{program}", *flags]
    if num_ranks:
        # Not every machine has an entry for localhost in /etc/hosts.
        hosts = ["-np", str(num_ranks), "-H", f"127.0.0.1:{num_ranks}", "--gloo"]
        command = [str(Path(python).with_name("horovodrun")), *hosts, *command]
    inherited = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    path = f"{Path(python).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    variables = {**inherited, "PATH": path, "PYTHONPATH": str(REPO), **(environ or {})}
    status, out, err = _run_to_end(command, variables, timeout_s)
    results = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if status or not results:
        reason = f"status {status}: {_error_line(out, err)}"
        raise ContestantError(reason, "ModuleNotFoundError" in err)
    return results[-1]


def _run_to_end(
    command: Sequence[str], environ: Mapping[str, str], timeout_s: float
) -> tuple[int, str, str]:
    """Exit status, standard output and error; raises ContestantError after the timeout."""
    children = set(psutil.Process().children())
    with _on_signals({signal.SIGTERM: _exit}):
        try:
            process = subprocess.Popen(
                command,
                cwd=REPO,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches this process alone
            )
            out, err = process.communicate(timeout=timeout_s)
        except BaseException as error:
            # Not the descendants of `process`: the signal may arrive before it is assigned.
            _end(set(psutil.Process().children()) - children)
            if isinstance(error, subprocess.TimeoutExpired):
                raise ContestantError(f"not finished after {timeout_s:g} s", False) from error
            raise
    return process.returncode, RANK_TAG.sub("", out), RANK_TAG.sub("", err)


def _end(leaders: Iterable[psutil.Process]) -> None:
    """Ends processes with all their descendants: horovodrun starts ranks in their own sessions, and
    a DataLoader's workers outlive their parent."""
    with _on_signals({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        family = set(leaders)
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for member in list(family):  # also those that have started meanwhile
                with suppress(psutil.NoSuchProcess):
                    family.update(member.children(recursive=True))
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    end(member)
            psutil.wait_procs(list(family), timeout=GRACE_S)


@contextmanager
def _on_signals(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    """Replaces the handlers of signals for the duration of a `with` block."""
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _exit(signum: int, _: object) -> None:
    sys.exit(128 + signum)


def _error_line(out: str, err: str) -> str:
    """The first line that names an error: that of a rank comes before that of the launcher."""
    lines = [line.strip() for line in f"{out}\n{err}".splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line) and "Traceback (most" not in line]
    return (errors or lines or ["no output"])[0]
