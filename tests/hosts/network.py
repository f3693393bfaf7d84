"""Several hosts on one network, made of Linux namespaces: each has a name, an address and an sshd.

A host's namespaces live as long as its process 1, which is killed when its parent ends. So nothing
is left behind, however the test ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Iterable

import psutil

from tests.conftest import BIN, ENVIRONMENT, REPO, Ended

SSH_PORT = 2222
HOST_SCRIPT = Path(__file__).with_name("host.sh")
NEW_NAMESPACES = [
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", "--fork"),
    *("--net", "--uts", "--mount", "--pid", "--mount-proc"),
]


def unavailable() -> str:
    """Why hosts cannot be made here; '' if they can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if not shutil.which("ip"):
        return "ip is not installed (apt-get install iproute2)"
    if not shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin"):
        return "sshd is not installed (apt-get install openssh-server)"
    bridge = [*NEW_NAMESPACES, "ip", "link", "add", "bridge", "type", "bridge"]
    if subprocess.run(bridge, capture_output=True).returncode:
        return "making a network bridge is not permitted"
    return ""


class Network:
    """Hosts with the addresses 10.77.0.1, 10.77.0.2, ..., connected by a bridge.

    The bridge is in a network namespace of its own. Each host also has an interface docker0, with
    the same address on all hosts, as Docker makes it.
    """

    def __init__(self, folder: Path, names: list[str]):
        self.folder = folder
        self.addresses = {name: f"10.77.0.{i}" for i, name in enumerate(names, 1)}
        self.key = folder / "key"
        self._unshared: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Network:
        try:
            self._write_settings()
            self._unshare("bridge", "sh", "-c", "ip link add bridge type bridge;echo ready;read _")
            self._on("bridge", "ip", "link", "set", "bridge", "up")
            for name in self.addresses:
                self._unshare(name, "sh", str(HOST_SCRIPT), name, str(self.folder))
                self._connect(name)
                self._unshared[name].stdin.write("\n")
                self._unshared[name].stdin.flush()
            for name, address in self.addresses.items():
                self._wait_for_sshd(name, address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        inits = [p for each in self._unshared.values() for p in psutil.Process(each.pid).children()]
        for process in self._unshared.values():
            process.kill()  # this kills process 1 of the host too, and with it all others there
            process.communicate()
        psutil.wait_procs(inits, timeout=10)

    def launcher(
        self, script: str, hosts: str, *flags: str, options: Iterable[str] = ()
    ) -> list[str]:
        """The command of a launcher with the port and key of these hosts."""
        name, *first = script.split()
        ssh = ["--port", str(SSH_PORT), "--key", str(self.key)]
        return [str(REPO / "launch" / name), *first, *ssh, *options, hosts, *flags]

    def run(self, host: str, words: list[str], cwd: Path, timeout_s: float, **env: str) -> Ended:
        """Runs a command on a host and waits; after timeout_s it is killed, with status -9."""
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
            env={**ENVIRONMENT, "TMPDIR": str(self.folder), "VENV": str(BIN.parent), **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def processes(self, host: str) -> list[psutil.Process]:
        """The running processes of a host, except its process 1."""
        children = psutil.Process(self._init_pid(host)).children(recursive=True)
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]

    def sockets(self, host: str, state: str) -> set[tuple[str, str]]:
        """The local address and the program of each TCP socket of a host, except those of ssh."""
        words = [*self._entering(host, "--net"), "ss", "-tnpH", "state", state]
        table = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return {
            (address.rsplit(":", 1)[0].strip("[]"), program)
            for address, program in re.findall(
                r'^\d+ +\d+ +(\S+) .*users:\(\("([^"]+)', table, re.M
            )
            if program not in ("sshd", "ssh", "sshd-session")
        }

    def command_lines(self, host: str) -> set[str]:
        """The command lines that every user of a host can see."""
        namespace = os.readlink(f"/proc/{self._init_pid(host)}/ns/pid")
        lines = set()
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):  # the process has just ended
                if os.readlink(f"/proc/{process.pid}/ns/pid") == namespace:
                    lines.add(" ".join(process.cmdline()))
        return lines

    def disconnect(self, host: str) -> None:
        """Drops all packets from and to a host, without any error for either side."""
        self._on("bridge", "ip", "link", "set", f"to-{host}", "nomaster")

    def reconnect(self, host: str) -> None:
        self._on("bridge", "ip", "link", "set", f"to-{host}", "master", "bridge")

    def _unshare(self, name: str, *words: str) -> None:
        process = subprocess.Popen(
            [*NEW_NAMESPACES, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._unshared[name] = process
        if process.stdout.readline() != "ready\n":
            raise OSError(f"host {name} could not be started")

    def _init_pid(self, name: str) -> int:
        """The process id of a host's process 1, outside of its namespaces."""
        return psutil.Process(self._unshared[name].pid).children()[0].pid

    def _entering(self, name: str, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self._init_pid(name)), *namespaces]

    def _on(self, name: str, *words: str) -> None:
        """Runs a command in the network namespace of a host."""
        subprocess.run([*self._entering(name, "--net"), *words], check=True)

    def _connect(self, name: str) -> None:
        """Connects a host's eth0 to the bridge, and adds docker0."""
        ends = [f"to-{name}", "type", "veth", "peer", "name", "eth0"]
        self._on("bridge", "ip", "link", "add", *ends, "netns", str(self._init_pid(name)))
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
