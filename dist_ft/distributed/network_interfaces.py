"""Finds the network interface that connects this host with the other hosts of a job."""

from __future__ import annotations

import socket
from typing import Iterable

from dist_ft.errors import UserError

DISCARD_PORT = 9  # any port: connecting a UDP socket sends nothing


def interface_to(hosts: Iterable[str]) -> str:
    """The interface that routes to the other hosts; '' if there are none or no route is known.

    hosts: names or addresses, which may include this host.
    Raises UserError if different hosts are reached through different interfaces.
    """
    names = _interface_names()
    sources = {_source_address(host) for host in hosts if not is_local(host)}
    used = sorted({names[address] for address in sources if address in names})
    if len(used) > 1:
        raise UserError(
            f"the hosts are reached through several interfaces ({', '.join(used)}): choose one"
            " with --interface"
        )
    return used[0] if used else ""


def is_local(host: str) -> bool:
    """True if a host is this machine: only then can a socket be bound to its address."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except (OSError, UnicodeError):
            return False
    return True


def _interface_names() -> dict[str, str]:
    """Maps each IPv4 address of this host to the name of its interface."""
    import psutil  # installed with Horovod; a single process does not need it

    return {
        address.address: name.split(":")[0]  # an alias such as eth0:1 belongs to eth0
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET
    }


def _source_address(host: str) -> str:
    """The local address that packets to a host would have; '' if it has no address or route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, DISCARD_PORT))
        except (OSError, UnicodeError):
            return ""
        return probe.getsockname()[0]
