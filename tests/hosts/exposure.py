"""What other hosts and other users can see of a job: ports, connections and command lines."""

from __future__ import annotations

import base64
import binascii
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.hosts.network import Network


class Exposed(NamedTuple):
    """What other hosts and users can see of a job."""

    listening: set[tuple[str, str]]  # local address and program
    connected: set[str]  # local addresses
    command_lines: set[str]


def observe(network: Network, command: list[str], folder: Path, **env: str) -> tuple[Exposed, str]:
    """Runs a command on hosta to its end; returns what it exposed on all hosts, and its output."""
    seen, log = Exposed(set(), set(), set()), folder / "log"
    with log.open("w") as file:
        job = network.start("hosta", command, folder, file, **env)
    deadline = time.monotonic() + 240
    while job.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        for host in network.addresses:
            seen.listening.update(network.sockets(host, "listening"))
            seen.connected.update(address for address, _ in network.sockets(host, "established"))
            seen.command_lines.update(network.command_lines(host))
        time.sleep(0.2)
    assert job.returncode == 0, log.read_text()
    return seen, log.read_text()


def is_private(address: str) -> bool:
    """True for addresses of the network between the hosts and of loopback."""
    return address.startswith(("10.77.0.", "127."))


def has_pickle(command_line: str) -> bool:
    """True if a word is a base64 pickle, in which horovodrun passes the secret key of a service."""
    for word in re.findall(r"[\w+/]{8,}={0,2}", command_line):
        with suppress(binascii.Error):
            if base64.b64decode(word, validate=True).startswith((b"\x80\x04", b"\x80\x05")):
                return True
    return False
