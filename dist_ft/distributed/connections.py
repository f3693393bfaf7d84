"""Closes this process's network connections after another rank has failed."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def close_connections() -> None:
    """Shuts down all connected TCP sockets of this process; listening sockets stay open.

    Horovod leaves its connections open after a failure. A rank that waits in a collective for this
    one, which will never join it, would wait until Gloo's timeout.
    """
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # the descriptor of the listing itself
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # not a socket
            os.close(copy)
            continue
        with connection:
            _shut_down(connection)


def _shut_down(connection: socket.socket) -> None:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return  # not the network; may be this process's standard output
    with suppress(OSError):
        connection.getpeername()  # raises if the socket listens or is not connected
        connection.shutdown(socket.SHUT_RDWR)
