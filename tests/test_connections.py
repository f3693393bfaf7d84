"""close_connections ends the connections of a process, and no other descriptors."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.conftest import REPO

PROGRAM = """
import socket
from dist_ft.distributed.connections import close_connections
server = socket.create_server(("127.0.0.1", 0))
client, (peer, _) = socket.create_connection(server.getsockname()), server.accept()
peer.settimeout(10)
close_connections()
assert peer.recv(1) == b"", "the other end is still connected"
client, (peer, _) = socket.create_connection(server.getsockname()), server.accept()
client.sendall(b"x")
assert peer.recv(1) == b"x"
print("the standard output is still open")
"""


def test_connected_sockets_are_closed_and_listening_ones_stay_open():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPO, stdout=theirs, check=True)
        assert ours.recv(100) == b"the standard output is still open\n"
