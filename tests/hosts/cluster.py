"""A cluster of Slurm's, of this machine alone: its daemons without any of the system's services."""

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


def missing() -> str | None:
    """What there is not for making a cluster here."""
    if os.geteuid() != 0:
        return "only root can start jobs as Slurm does"
    for name in ("slurmctld", "slurmd", "sbatch"):
        if not program(name):
            return f"no {name} here (apt-get install slurm-wlm)"
    return None


def until(
    holds: Callable[[], bool], timeout_s: float, told: Callable[[], str] = lambda: ""
) -> None:
    """Waits for it; told: what shows why it did not come about."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s\n{told()}"
        time.sleep(0.2)


class Cluster:
    """One controller and one node; they end with the `with`, and with the process that made it."""

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
            until(lambda: "idle" in self.ask("sinfo", "--noheader"), 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for line in self.ask("squeue", "--noheader", "--format=%A").splitlines():
            self.ask("scancel", "--full", "--signal=KILL", line)  # what runs
            self.ask("scancel", line)  # what waits
        try:
            until(lambda: not self.ask("squeue", "--noheader"), 30)
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
                daemon.wait(30)

    def ask(self, *words: str) -> str:
        """What one of Slurm's commands says, from the repository."""
        asked = subprocess.run(
            words, env=self._environment, cwd=REPO, capture_output=True, text=True, timeout=60
        )
        return asked.stdout + asked.stderr


def _settings(folder: Path) -> str:
    """No munge: its daemon would be a service, and all here is the same user's."""
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
