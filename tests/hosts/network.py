"""Hosts on one network, made of Linux namespaces: each with its name, address, processes and sshd.

Nothing of it has a name outside, and all of it ends with the process that made it, however that
ends: a host's namespaces live as long as its process 1, and that as long as its parent.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.conftest import ENVIRONMENT, Ended

SSH_PORT = 2222
HOST = Path(__file__).with_name("host.sh")
ISOLATED = [
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--fork"),
    *("--net", "--uts", "--mount", "--pid", "--mount-proc"),
]


def missing() -> str | None:
    """What there is not for making hosts here."""
    if os.geteuid() != 0:
        return "only root can make hosts out of namespaces"
    if not shutil.which("ip"):
        return "no ip here (apt-get install iproute2)"
    if not shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin"):
        return "no sshd here (apt-get install openssh-server)"
    bridge = [*ISOLATED, "ip", "link", "add", "bridge", "type", "bridge"]
    if subprocess.run(bridge, capture_output=True).returncode:
        return "no right to make a network here"
    return None


class Network:
    """Hosts 10.77.0.1, 10.77.0.2, ... by name, joined by the bridge of a nameless further one."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder = folder
        self.addresses = {name: f"10.77.0.{i}" for i, name in enumerate(names, 1)}
        self.key = folder / "key"
        self._made: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Network:
        try:
            self._write_settings()
            self._isolate("bridge", "sh", "-c", "ip link add bridge type bridge;echo made;read _")
            self._on("bridge", "ip", "link", "set", "bridge", "up")
            for name in self.addresses:
                self._isolate(name, "sh", str(HOST), name, str(self.folder))
                self._plug(name)
                self._made[name].stdin.write("\n")
                self._made[name].stdin.flush()
            for name, address in self.addresses.items():
                self._wait_for_sshd(name, address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        firsts = [p for made in self._made.values() for p in psutil.Process(made.pid).children()]
        for process in self._made.values():
            process.kill()  # and with it its child, process 1 of the host, and all others there
            process.communicate()
        psutil.wait_procs(firsts, timeout=10)

    def run(self, host: str, words: list[str], cwd: Path, timeout_s: float, **env: str) -> Ended:
        """Runs a command on a host to its end; one that takes longer is ended, with status -9."""
        start = time.monotonic()
        job = self.start(host, words, cwd, subprocess.PIPE, **env)
        try:
            output, _ = job.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(job.pid).children(recursive=True), job]:
                process.kill()
            output, _ = job.communicate()
        untagged = re.sub(r"\[(1,)?\d+\]<std(out|err)>:", "", output)
        return Ended(job.returncode, untagged, time.monotonic() - start)

    def start(self, host: str, words: list[str], cwd: Path, output, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self._entering(host, "--net", "--uts", "--mount", "--pid", "--wd=."), *words],
            cwd=cwd,
            env={**ENVIRONMENT, "TMPDIR": str(self.folder), **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def processes(self, host: str) -> list[psutil.Process]:
        """All processes of a host that run, but its process 1."""
        children = psutil.Process(self._first(host)).children(recursive=True)
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]

    def sockets(self, host: str, state: str) -> set[tuple[str, str]]:
        """The address and the program of a host's TCP sockets, but sshd's and those of ssh."""
        words = [*self._entering(host, "--net"), "ss", "-tnpH", "state", state]
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return {
            (own.rsplit(":", 1)[0].strip("[]"), who)
            for own, who in re.findall(r'^\d+ +\d+ +(\S+) .*users:\(\("([^"]+)', told, re.M)
            if who not in ("sshd", "ssh", "sshd-session")
        }

    def command_lines(self, host: str) -> set[str]:
        """As all users of a host see them."""
        space = os.readlink(f"/proc/{self._first(host)}/ns/pid")
        lines = set()
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):  # it has just ended
                if os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    lines.add(" ".join(process.cmdline()))
        return lines

    def cut(self, host: str) -> None:
        """Pulls a host's plug: what is sent to it or by it is lost, and nobody is told."""
        self._on("bridge", "ip", "link", "set", f"to-{host}", "nomaster")

    def mend(self, host: str) -> None:
        self._on("bridge", "ip", "link", "set", f"to-{host}", "master", "bridge")

    def _isolate(self, name: str, *words: str) -> None:
        process = subprocess.Popen(
            [*ISOLATED, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._made[name] = process
        if process.stdout.readline() != "made\n":
            raise OSError(f"{name} could not be made")

    def _first(self, name: str) -> int:
        """Process 1 of a host, by its number outside."""
        return psutil.Process(self._made[name].pid).children()[0].pid

    def _entering(self, name: str, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self._first(name)), *namespaces]

    def _on(self, name: str, *words: str) -> None:
        """Runs a command of this machine's on a host's network."""
        subprocess.run([*self._entering(name, "--net"), *words], check=True)

    def _plug(self, name: str) -> None:
        """Joins a host's eth0 with the bridge, and gives it a docker0 like any other's."""
        ends = [f"to-{name}", "type", "veth", "peer", "name", "eth0"]
        self._on("bridge", "ip", "link", "add", *ends, "netns", str(self._first(name)))
        self._on("bridge", "ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        self._on(name, "ip", "link", "add", "docker0", "type", "bridge")
        for link, address in (("eth0", f"{self.addresses[name]}/24"), ("docker0", "172.17.0.1/16")):
            self._on(name, "ip", "address", "add", address, "dev", link)
            self._on(name, "ip", "link", "set", link, "up")

    def _write_settings(self) -> None:
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
        subprocess.run([*keygen, str(self.key)], check=True)
        lines = [f"{address} {name}" for name, address in self.addresses.items()]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        (self.folder / "ssh_config").write_text(f"UserKnownHostsFile {self.folder}/known_hosts\n")
        (self.folder / "sshd_config").write_text(
            f"Port {SSH_PORT}\nHostKey {self.key}\nAuthorizedKeysFile {self.key}.pub\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n"
            f"PermitRootLogin prohibit-password\nSetEnv TMPDIR={self.folder}\n"
        )

    def _wait_for_sshd(self, name: str, address: str) -> None:
        connect = f"exec 3<>/dev/tcp/{address}/{SSH_PORT}"
        for _ in range(50):
            probe = [*self._entering(name, "--net"), "bash", "-c", connect]
            if subprocess.run(probe, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise OSError(f"no sshd on {name}: {(self.folder / f'{name}.log').read_text()}")
