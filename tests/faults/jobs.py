"""Jobs for the fault table: started by the launchers, watched to their end, with time limits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

import psutil

from tests.conftest import ENVIRONMENT, REPO
from tests.elastic_jobs import HOSTS, RECIPE
from tests.hosts.network import SSH_PORT, Network

WORKER = REPO / "tests" / "workers" / "table_fault.py"
STALL_TIMEOUT_S = 10
LINK_STALL_TIMEOUT_S = 60  # longer than the timeouts that detect a dead link by default
SAVE_EVERY = 4
JOB_TIMEOUT_S = 240.0  # including all restarts
CLEANUP_TIMEOUT_S = 150.0  # for processes that outlive the job

# Stands in for python: `-m dist_ft.train` runs table_fault.py instead.
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m dist_ft.train" ] || exec {python} "$@"
shift 2
exec {python} {worker} {fault} {log} "$@"
"""

LAUNCHERS = {
    "gloo": ["hosts.sh"],
    "mpi": ["hosts.sh", "--mpi"],
    "elastic": ["elastic.sh"],
    "restart": ["elastic.sh"],
}
ELASTIC_LAUNCHERS = ("elastic", "restart")
ADDING_HOSTS = ("add", "slow")  # these faults start on one host


class Ended(NamedTuple):
    status: int | None  # None: the job did not end
    output: str
    at: float  # time.time()
    left_s: float | None  # until its last process had ended; None: it had to be killed


class FaultyJob:
    """A run in a folder, with the fault to inject and the hosts that it runs on."""

    def __init__(self, root: Path, fault: str, data: Path, network: Network | None = None):
        self.root, self.fault, self.data, self.network = root, fault, data, network
        self.log, self.out = root / "log", root / "run"
        self.log.mkdir(parents=True)
        python = root / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        names = {"python": sys.executable, "worker": WORKER, "fault": fault, "log": self.log}
        python.write_text(PYTHON.format(**names))
        python.chmod(0o755)

    def command(self, launcher: str) -> list[str]:
        script, *words = LAUNCHERS[launcher]
        flags = ["--data", self.data, "--out", self.out, *RECIPE, "--save-every", SAVE_EVERY]
        flags += ["--stall-timeout", LINK_STALL_TIMEOUT_S if self.network else STALL_TIMEOUT_S]
        if launcher in ELASTIC_LAUNCHERS:
            flags += ["--commit-every", SAVE_EVERY, "--check-every", "1"]
        if self.network:
            words += ["--port", SSH_PORT, "--key", self.network.key, "--interface", "eth0"]
            words += ["hosta:1,hostb:1"]
        elif launcher == "elastic":
            self.set_hosts(HOSTS[: 1 if self.fault in ADDING_HOSTS else 2])
            words += ["--interface", "lo", self.root / "hosts"]
        else:
            words += ["127.0.0.1:2"]
        return [str(word) for word in (REPO / "launch" / script, *words, *flags)]

    def set_hosts(self, names: list[str]) -> None:
        temporary = self.root / "hosts.new"
        temporary.write_text("".join(f"{name} slots=1\n" for name in names))
        temporary.replace(self.root / "hosts")

    def run(self, launcher: str, meanwhile: Callable[[str], None]) -> Ended:
        """Runs it to its end; `meanwhile` is called repeatedly with the output so far."""
        file = self.root / f"output-{time.time():.0f}"
        with file.open("w") as output:
            job = self._start(self.command(launcher), output)
        deadline = time.monotonic() + JOB_TIMEOUT_S
        while job.poll() is None and time.monotonic() < deadline:
            meanwhile(file.read_text(errors="replace"))
            time.sleep(0.1)
        at, status = time.time(), job.poll()
        left_s = self._clear(CLEANUP_TIMEOUT_S if status is not None else 0)
        job.wait()
        output = re.sub(r"\[(1,)?\d+\]<std(out|err)>:", "", file.read_text(errors="replace"))
        return Ended(status, output, at, left_s)

    def _start(self, words: list[str], output) -> subprocess.Popen:
        venv = str(self.root / "venv")
        if self.network:
            return self.network.start("hosta", words, REPO, output, VENV=venv)
        return subprocess.Popen(
            words,
            cwd=REPO,
            env={**ENVIRONMENT, "VENV": venv},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _clear(self, wait_s: float) -> float | None:
        """Waits for the job's processes to end, and kills them after that time."""
        start = time.monotonic()
        while left := self._processes():
            if time.monotonic() - start > wait_s:
                for process in left:
                    process.kill()
                return None
            time.sleep(0.2)
        return round(time.monotonic() - start, 1)

    def _processes(self) -> list[psutil.Process]:
        """All processes of the job: their command lines contain its folder."""
        every = psutil.process_iter(["cmdline", "status"])
        return [
            process
            for process in every
            if any(str(self.root) in word for word in process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


def has_mpi() -> bool:
    return shutil.which("mpirun") is not None
