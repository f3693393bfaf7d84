"""A TCP connection between two hosts, measured: how long a byte takes, and how many a second go.

The side that listens takes one connection, on one address, and only from who knows its token.
"""

from __future__ import annotations

import hmac
import socket
import statistics
import threading
import time
from contextlib import suppress
from typing import NamedTuple

WAITS_S = 10.0  # for a connection, and for anything that is sent over it
LASTS_S = 1.0
MOST_MB = 64
NUM_PINGS = 20
CHUNK = bytes(2**18)


class Link(NamedTuple):
    latency_s: float  # half of a byte's way there and back
    gb_per_s: float


def listen(address: str, token: str) -> int:
    """Waits for `measure` in a thread of its own; returns the port. Raises OSError."""
    listening = socket.create_server((address, 0), backlog=1)
    listening.settimeout(WAITS_S)
    threading.Thread(target=_serve, args=(listening, token.encode()), daemon=True).start()
    return listening.getsockname()[1]


def _serve(listening: socket.socket, token: bytes) -> None:
    with listening, suppress(OSError):
        while not _served(listening.accept()[0], token):
            continue


def _served(connection: socket.socket, token: bytes) -> bool:
    """Whether it was the expected one, which is sent back what it pings, and at its end a byte."""
    with connection, suppress(OSError):
        _prepare(connection)
        told = connection.recv(len(token), socket.MSG_WAITALL)
        if not hmac.compare_digest(told, token):
            return False
        for _ in range(NUM_PINGS):
            connection.sendall(connection.recv(1))
        room = bytearray(len(CHUNK))
        while connection.recv_into(room):
            continue
        connection.sendall(b".")
        return True
    return False


def measure(address: str, port: int, token: str) -> Link:
    """Sends for a second, at most 64 MB, to who listens there. Raises OSError."""
    with socket.create_connection((address, port), timeout=WAITS_S) as connection:
        _prepare(connection)
        connection.sendall(token.encode())
        latency_s = statistics.median(_ping_s(connection) for _ in range(NUM_PINGS)) / 2
        start = time.perf_counter()
        num_bytes = 0
        while num_bytes < MOST_MB * 1e6 and time.perf_counter() - start < LASTS_S:
            connection.sendall(CHUNK)
            num_bytes += len(CHUNK)
        connection.shutdown(socket.SHUT_WR)
        _expect(connection)  # so that all has arrived
        return Link(latency_s, num_bytes / 1e9 / (time.perf_counter() - start))


def _ping_s(connection: socket.socket) -> float:
    start = time.perf_counter()
    connection.sendall(b".")
    _expect(connection)
    return time.perf_counter() - start


def _expect(connection: socket.socket) -> None:
    if connection.recv(1) != b".":
        raise ConnectionError("the other side has hung up")


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(WAITS_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
