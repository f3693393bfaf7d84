"""Jobs for the fault table: started by the launchers, watched to their end, and never for ever."""

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
from tests.hosts.network import SSH_PORT, Network
from tests.test_elastic import HOSTS, RECIPE

WORKER = REPO / "tests" / "workers" / "befall.py"
STALL_TIMEOUT_S = 10
LINK_STALL_TIMEOUT_S = 60  # so that what notices a dead link is what would by default
SAVE_EVERY = 4
LONGEST_S = 240.0  # that a job may take, with all its restarts
CLEARS_S = 150.0  # that its processes may outlive it

# A python that runs, for dist_ft.train, a run that a fault befalls.
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m dist_ft.train" ] || exec {python} "$@"
shift 2
exec {python} {worker} {kind} {log} "$@"
"""

LAUNCHERS = {
    "gloo": ["hosts.sh"],
    "mpi": ["hosts.sh", "--mpi"],
    "elastic": ["elastic.sh"],
    "restart": ["elastic.sh"],
}
IS_ELASTIC = ("elastic", "restart")
ADDED = ("add", "slow")  # to these a second host is added


class Ended(NamedTuple):
    status: int | None  # None: it did not end
    output: str
    at: float  # by the clock
    left_s: float | None  # until its last process had ended; None: it had to be killed


class Place:
    """The folder of a run, what is to befall it there, and the hosts that carry it."""

    def __init__(self, root: Path, kind: str, data: Path, network: Network | None = None):
        self.root, self.kind, self.data, self.network = root, kind, data, network
        self.log, self.run = root / "log", root / "run"
        self.log.mkdir(parents=True)
        python = root / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        told = {"python": sys.executable, "worker": WORKER, "kind": kind, "log": self.log}
        python.write_text(PYTHON.format(**told))
        python.chmod(0o755)

    def command(self, launcher: str) -> list[str]:
        script, *words = LAUNCHERS[launcher]
        flags = ["--data", self.data, "--out", self.run, *RECIPE, "--save-every", SAVE_EVERY]
        flags += ["--stall-timeout", LINK_STALL_TIMEOUT_S if self.network else STALL_TIMEOUT_S]
        if launcher in IS_ELASTIC:
            flags += ["--commit-every", SAVE_EVERY, "--check-every", "1"]
        if self.network:
            words += ["--port", SSH_PORT, "--key", self.network.key, "--interface", "eth0"]
            words += ["hosta:1,hostb:1"]
        elif launcher == "elastic":
            self.set_hosts(HOSTS[: 1 if self.kind in ADDED else 2])
            words += ["--interface", "lo", self.root / "hosts"]
        else:
            words += ["127.0.0.1:2"]
        return [str(word) for word in (REPO / "launch" / script, *words, *flags)]

    def set_hosts(self, names: list[str]) -> None:
        beside = self.root / "hosts.beside"
        beside.write_text("".join(f"{name} slots=1\n" for name in names))
        beside.replace(self.root / "hosts")

    def launch(self, launcher: str, meanwhile: Callable[[str], None]) -> Ended:
        """Runs it to its end; `meanwhile` is called again and again with what was said so far."""
        told = self.root / f"told-{time.time():.0f}"
        with told.open("w") as output:
            job = self._start(self.command(launcher), output)
        deadline = time.monotonic() + LONGEST_S
        while job.poll() is None and time.monotonic() < deadline:
            meanwhile(told.read_text(errors="replace"))
            time.sleep(0.1)
        at, status = time.time(), job.poll()
        left_s = self._clear(CLEARS_S if status is not None else 0)
        job.wait()
        words = re.sub(r"\[(1,)?\d+\]<std(out|err)>:", "", told.read_text(errors="replace"))
        return Ended(status, words, at, left_s)

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
        """Waits for what is still there of the job; ends it after that long."""
        start = time.monotonic()
        while left := self._processes():
            if time.monotonic() - start > wait_s:
                for process in left:
                    process.kill()
                return None
            time.sleep(0.2)
        return round(time.monotonic() - start, 1)

    def _processes(self) -> list[psutil.Process]:
        """All of the job, by the folder that their command lines name."""
        every = psutil.process_iter(["cmdline", "status"])
        return [
            process
            for process in every
            if any(str(self.root) in word for word in process.info["cmdline"] or ())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]


def has_mpi() -> bool:
    return shutil.which("mpirun") is not None
