"""This host's network: its interfaces, and by which of them others are reached."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from contextlib import suppress
from typing import Iterable

from dist_ft.errors import UserError

SIOCGIFCONF = 0x8912  # of linux/sockios.h
IFREQ = 40  # bytes of a struct ifreq, on 64 bits
MOST = 1024  # addresses


def addresses() -> dict[str, str]:
    """The interface of each of this host's IPv4 addresses."""
    room = array.array("B", bytes(MOST * IFREQ))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        wanted = struct.pack("iL", len(room), room.buffer_info()[0])
        size, _ = struct.unpack("iL", fcntl.ioctl(asked, SIOCGIFCONF, wanted))
    found = {}
    for start in range(0, size, IFREQ):
        entry = room[start : start + IFREQ].tobytes()
        label = entry[:16].split(b"\0")[0].decode()
        found[socket.inet_ntoa(entry[20:24])] = label.split(":")[0]  # eth0:1 is eth0's
    return found


def interfaces() -> dict[str, str]:
    """The first IPv4 address of each interface that has one."""
    return {name: address for address, name in reversed([*addresses().items()])}


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
    names = addresses()
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
