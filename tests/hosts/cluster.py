"""A Slurm cluster of one node on this machine, independent of the system's services."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Callable

from tests.conftest import BIN, ENVIRONMENT, REPO


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def unavailable() -> str:
    """Why Slurm cannot be started here; '' if it can."""
    if os.geteuid() != 0:
        return "needs root, as whom Slurm starts jobs"
    for name in ("slurmctld", "slurmd", "sbatch"):
        if not program(name):
            return f"{name} is not installed (apt-get install slurm-wlm)"
    return ""


def wait_until(
    condition: Callable[[], bool], timeout_s: float, details: Callable[[], str] = lambda: ""
) -> None:
    """Fails after timeout_s, with the details in the message."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout_s} s\n{details()}"
        time.sleep(0.2)


class Cluster:
    """A controller and a node. They end with the `with` statement or with this process."""

    def __init__(self, folder: Path):
        conf = folder / "slurm.conf"
        conf.write_text(_settings(folder))
        (folder / "state").mkdir()
        self._environment = {
            **{name: value for name, value in ENVIRONMENT.items() if "SLURM" not in name},
            **{"SLURM_CONF": str(conf), "VENV": str(BIN.parent)},
        }
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Cluster:
        for name in ("slurmctld", "slurmd"):
            words = ["setpriv", "--pdeathsig", "KILL", str(program(name)), "-D"]
            daemon = subprocess.Popen(
                words, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._daemons.append(daemon)
        try:
            wait_until(lambda: "idle" in self.run("sinfo", "--noheader"), 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for line in self.run("squeue", "--noheader", "--format=%A").splitlines():
            self.run("scancel", "--full", "--signal=KILL", line)  # running jobs
            self.run("scancel", line)  # waiting jobs
        try:
            wait_until(lambda: not self.run("squeue", "--noheader"), 120)
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
                daemon.wait(30)

    def run(self, *words: str) -> str:
        """The output of a Slurm command, run in the repository."""
        done = subprocess.run(
            words, env=self._environment, cwd=REPO, capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr


def _settings(folder: Path) -> str:
    """slurm.conf, without munge: it would need a service, and all processes have the same user."""
    host = socket.gethostname().split(".")[0]
    controller_port, node_port = _free_ports(2)
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
