"""What a job on several hosts listens to, tells other users of the hosts, and reads from files.

The launchers' jobs run on the hosts of hosts/network.py, which also have a docker0 each.
"""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import re
import time
from typing import NamedTuple

import pytest

from tests.conftest import BIN, REPO, TINY, needs_mpi
from tests.hosts.network import SSH_PORT, Network, missing

needs_hosts = pytest.mark.skipif(missing() is not None, reason=str(missing()))
HIDDEN = {"CLUSTER_TOKEN": "seldom-seen-53"}  # of the environment that the job is started in


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with Network(tmp_path_factory.mktemp("net"), ["hosta", "hostb"]) as network:
        yield network


def command(network, launcher, hosts, *flags, options=()):
    ssh = ["--port", str(SSH_PORT), "--key", str(network.key)]
    return [str(REPO / "launch" / launcher[0]), *launcher[1:], *ssh, *options, hosts, *flags]


class Watched(NamedTuple):
    """What is seen of a job from its start to its end, on all hosts."""

    listening: set[tuple[str, str]]  # address and program
    connected: set[str]  # addresses of connections
    lines: set[str]  # command lines


def watch(network, words, tmp_path, **env):
    seen, log = Watched(set(), set(), set()), tmp_path / "log"
    with log.open("w") as file:
        job = network.start("hosta", words, tmp_path, file, **env)
    deadline = time.monotonic() + 200
    while job.poll() is None:
        assert time.monotonic() < deadline, log.read_text()
        for host in network.addresses:
            seen.listening.update(network.sockets(host, "listening"))
            seen.connected.update(own for own, _ in network.sockets(host, "established"))
            seen.lines.update(network.command_lines(host))
        time.sleep(0.05)
    assert job.returncode == 0, log.read_text()
    return seen


def is_between_them(address):
    return address.startswith(("10.77.0.", "127."))


LAUNCHERS = [
    pytest.param(["hosts.sh"], (), {"horovodrun"}, id="gloo"),
    pytest.param(
        *(["hosts.sh", "--mpi"], (), {"mpirun", "orted", "python"}),
        id="horovodrun-mpi",
        marks=needs_mpi,
    ),
    pytest.param(
        *(["mpirun.sh"], ("--interface", "eth0"), {"mpirun", "orted", "python"}),
        id="mpirun-eth0",
        marks=needs_mpi,
    ),
]


@needs_hosts
@pytest.mark.parametrize("launcher, options, everywhere", LAUNCHERS)
def test_a_job_keeps_to_one_network_and_tells_no_secret(
    network, tiny, tmp_path, launcher, options, everywhere
):
    """everywhere: the programs that the README says listen on all networks."""
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *TINY]
    words = command(network, launcher, "hosta:1,hostb:1", *flags, options=options)
    seen = watch(network, words, tmp_path, VENV=str(BIN.parent), **HIDDEN)
    assert any("-m dist_ft.train" in line for line in seen.lines)
    wide = {who for own, who in seen.listening if not is_between_them(own)}
    assert wide <= everywhere, seen.listening
    assert {own for own in seen.connected if not is_between_them(own)} == set()
    assert [line for line in seen.lines if HIDDEN["CLUSTER_TOKEN"] in line] == []
    assert HIDDEN["CLUSTER_TOKEN"] not in (tmp_path / "log").read_text()
    assert [line for line in seen.lines if has_pickle(line)] == []


def has_pickle(line):
    """Whether a word of a command line is one, in which horovodrun would put its services' key."""
    for word in re.findall(r"[\w+/]{8,}={0,2}", line):
        with contextlib.suppress(binascii.Error):
            if base64.b64decode(word, validate=True).startswith((b"\x80\x04", b"\x80\x05")):
                return True
    return False


@needs_hosts
def test_horovodruns_own_search_for_a_network_would_tell_its_key(network, tmp_path):
    """Why hosts.sh looks for the interface itself."""
    ssh = ["-p", str(SSH_PORT), "-i", str(network.key)]
    words = ["horovodrun", "--disable-cache", *ssh, "-np", "2", "-H", "hosta:1,hostb:1", "true"]
    env = {"PATH": f"{REPO}/launch/ssh:{BIN}:/usr/sbin:/usr/bin:/bin"}
    assert any(map(has_pickle, watch(network, words, tmp_path, **env).lines))


@needs_hosts
def test_hosts_behind_several_interfaces_want_one_named(network, tmp_path):
    other = ["ip", "address", "add", "10.78.0.1/24", "dev", "docker0"]
    assert network.run("hosta", other, tmp_path, 20).status == 0
    words = command(network, ["hosts.sh"], "hosta:1,hostb:1,10.78.0.2:1")
    try:
        ended = network.run("hosta", words, tmp_path, 90, VENV=str(BIN.parent))
    finally:
        network.run("hosta", [*other[:2], "del", *other[3:]], tmp_path, 20)
    assert ended.status == 2
    assert "several interfaces, docker0, eth0: say which one" in ended.output


PROGRAM = sorted([*(REPO / "dist_ft").rglob("*.py"), *(REPO / "food5").glob("*.py")])


@pytest.mark.parametrize("file", PROGRAM, ids=lambda file: file.stem)
def test_nothing_that_is_read_from_a_file_is_unpickled(file):
    assert list(unpickling(file.read_text())) == []


def unpickling(source):
    """The names of what could unpickle: modules, and calls of numpy's and MXNet's that may."""
    modules = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in modules)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in modules:
            yield node.module
        elif isinstance(node, ast.Attribute) and node.attr in ("load_states", "set_states"):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield node.arg
        elif isinstance(node, ast.Attribute) and node.attr in ("full_load", "unsafe_load"):
            yield node.attr


def test_what_could_unpickle_is_found():
    for line in (
        *("import pickle", "from cloudpickle import loads", "trainer.load_states('x')"),
        *("np.load('x', allow_pickle=True)", "np.load('x', allow_pickle=a)", "yaml.full_load(x)"),
    ):
        assert list(unpickling(line)), line
    assert list(unpickling("import json; np.load(x, allow_pickle=False)")) == []
