"""This host's network: its interfaces, and by which of them others are reached."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress
from typing import Iterable

from dist_ft.errors import UserError

SIOCGIFADDR = 0x8915  # of linux/sockios.h


def interfaces() -> dict[str, str]:
    """The IPv4 address of each interface that has one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()))
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def address_of(host: str) -> str:
    """The IPv4 address that a name has here; '' for none."""
    try:
        return socket.gethostbyname(host)
    except (OSError, UnicodeError):
        return ""


def is_here(host: str) -> bool:
    """Whether a host is this one: nowhere else could one listen on its address."""
    with socket.socket() as tried:
        try:
            tried.bind((host, 0))
        except (OSError, UnicodeError):
            return False
    return True


def interface_towards(hosts: Iterable[str]) -> str:
    """The interface by which the others of these hosts are reached; '' where none is known.

    Raises UserError where there are several.
    """
    others = {address_of(host) for host in hosts if not is_here(host)} - {""}
    names = {address: name for name, address in interfaces().items()}
    used = sorted({names[own] for own in map(_own_address, others) if own in names})
    if len(used) > 1:
        raise UserError(
            f"the hosts are reached by several interfaces, {', '.join(used)}: say which one the"
            " processes are to use, with --interface"
        )
    return used[0] if used else ""


def _own_address(address: str) -> str:
    """What this host would send to an address from, '' without a way there; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards, suppress(OSError):
        towards.connect((address, 9))
        return towards.getsockname()[0]
    return ""
