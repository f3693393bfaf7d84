"""Jobs on several hosts, by each launcher: results, error messages, failures, and what is exposed.

The hosts are made of Linux namespaces (tests/hosts/network.py). Like many real hosts they have an
interface docker0 with the same address on all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from tests.conftest import BIN, ENVIRONMENT, REPO, TINY, needs_mpi, train
from tests.hosts.cluster import wait_until
from tests.hosts.exposure import has_pickle, is_private, observe
from tests.hosts.network import SSH_PORT, Network, unavailable

REASON = unavailable()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]

HOSTS = ["hosta", "hostb", "hostc"]
FROZEN = [*TINY, "--bn", "frozen"]  # batch normalization does not depend on the number of ranks
SECRET = {"CLUSTER_TOKEN": "secret-token-53"}  # in the environment of the launcher

# A loss is a mean over some 50 images of float32 sums over thousands of terms, whose order differs.
LOSS_TOLERANCE = 1000 * np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with Network(tmp_path_factory.mktemp("net"), HOSTS) as network:
        yield network


@pytest.fixture(autouse=True)
def kill_remaining_jobs(network):
    """Keeps a failed test from slowing down the next one."""
    yield
    for host in HOSTS:
        for process in network.processes(host):
            with contextlib.suppress(psutil.Error):  # the process has just ended
                if process.name() != "sshd":
                    process.kill()


@pytest.fixture(scope="module")
def one_process(tiny, tmp_path_factory):
    """The scores of the same run in one process."""
    out = tmp_path_factory.mktemp("one_process")
    train("--data", str(tiny), "--out", str(out), *FROZEN)
    return scores(out)


def scores(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


LAUNCHERS = [
    pytest.param("hosts.sh", "hosta:1,hostb:1,hostc:1", {"horovodrun"}, id="gloo"),
    pytest.param(
        *("hosts.sh --mpi", "hosta:1,hostb:1", {"mpirun", "orted", "python"}),
        id="horovodrun-mpi",
        marks=needs_mpi,
    ),
    pytest.param(
        *("mpirun.sh", "hosta:1,hostb:1,hostc:1", {"mpirun", "orted", "python"}),
        id="mpirun",
        marks=needs_mpi,
    ),
]


@pytest.mark.parametrize("launcher, hosts, public", LAUNCHERS)
def test_a_job_on_several_hosts_equals_one_process_and_exposes_no_secret(
    network, tiny, one_process, tmp_path, launcher, hosts, public
):
    """public: the programs that listen on all networks, according to docs/security.md."""
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *FROZEN]
    seen, output = observe(network, network.launcher(launcher, hosts, *flags), tmp_path, **SECRET)

    assert f"on {hosts.count(':')} x cpu(0)" in output
    for host in hosts.replace(":1", "").split(",")[1:]:
        assert "Accepted publickey" in (network.folder / f"{host}.log").read_text()
    rows = scores(tmp_path / "run")
    assert len(rows) == len(one_process)
    for expected, row in zip(one_process, rows):
        for loss in ("train_loss", "test_loss"):
            assert row[loss] == pytest.approx(expected[loss], rel=LOSS_TOLERANCE)
        for exact in ("train_accuracy", "test_correct", "test_images", "confusion", "step"):
            assert row[exact] == expected[exact]

    assert any("-m dist_ft.train" in line for line in seen.command_lines)
    assert {program for address, program in seen.listening if not is_private(address)} <= public
    assert {address for address in seen.connected if not is_private(address)} == set()
    assert SECRET["CLUSTER_TOKEN"] not in "\n".join([output, *seen.command_lines])
    assert not any(map(has_pickle, seen.command_lines))


def test_horovodrun_exposes_its_key_if_it_searches_for_the_interface_itself(network, tmp_path):
    """This is why hosts.sh and elastic.sh choose the interface themselves."""
    ssh = ["-p", str(SSH_PORT), "-i", str(network.key)]
    command = ["horovodrun", "--disable-cache", *ssh, "-np", "2", "-H", "hosta:1,hostb:1", "true"]
    path = f"{REPO}/launch/ssh:{BIN}:/usr/sbin:/usr/bin:/bin"
    seen, _ = observe(network, command, tmp_path, PATH=path)
    assert any(map(has_pickle, seen.command_lines))


def test_the_checks_before_a_launch_name_the_host_and_the_remedy(network, tmp_path):
    def launch(launcher, hosts, *options, timeout_s=60):
        command = network.launcher(launcher, hosts, options=options)
        done = network.run("hosta", command, tmp_path, timeout_s)
        return done.status, done.output

    for launcher in ("hosts.sh", "mpirun.sh"):
        status, output = launch(launcher, "hosta:1,hostb:1,10.77.0.99:1")
        assert status == 1
        assert output.count("ssh without a password failed") == 1
        assert "10.77.0.99: ssh" in output and "docs/clusters.md" in output

    status, output = launch("hosts.sh", "hosta:1,hostb:1", "--interface", "ib7")
    assert status == 1
    for host in ("hosta", "hostb"):
        assert f"{host}: network interface ib7 does not exist" in output
    assert "docker0, eth0, lo" in output

    # A folder that only hosta has.
    folder = tmp_path / "mount/only_here"
    folder.parent.mkdir()
    launch_there = " ".join(network.launcher("hosts.sh", "hosta:1,hostb:1"))
    script = f"mount -t tmpfs tmpfs {folder.parent} && mkdir {folder} && cd {folder}"
    done = network.run("hosta", ["bash", "-c", f"{script} && {launch_there}"], tmp_path, 60)
    assert done.status == 1
    assert f"hostb: folder {folder} does not exist" in done.output
    assert "hosta:" not in done.output


def test_hosts_that_are_reached_through_several_interfaces_need_an_option(network, tmp_path):
    address = ["10.78.0.1/24", "dev", "docker0"]
    assert network.run("hosta", ["ip", "address", "add", *address], tmp_path, 20).status == 0
    command = network.launcher("hosts.sh", "hosta:1,hostb:1,10.78.0.2:1")
    try:
        done = network.run("hosta", command, tmp_path, 60)
    finally:
        network.run("hosta", ["ip", "address", "del", *address], tmp_path, 20)
    assert done.status == 2
    assert "several interfaces (docker0, eth0): choose one with --interface" in done.output


def start_job(network, tiny, tmp_path, command_of, name):
    """Starts a long job of all three hosts; returns it with its log."""
    out = ["--data", str(tiny), "--out", str(tmp_path / name), *FROZEN, "--epochs", "1000"]
    log = tmp_path / f"{name}.log"
    with log.open("w") as file:
        return network.start("hosta", command_of(*out), tmp_path, file), log


LOST_HOST = r"server hostb not responding|Remote daemon: .* on node hostb"  # of ssh or of Open MPI


@needs_mpi
def test_a_host_that_loses_its_connection_is_named_and_ends_the_job(network, tiny, tmp_path):
    """Keep-alive packets of ssh or Open MPI detect it, long before the stall timeout."""
    hosts, jobs = "hosta:1,hostb:1,hostc:1", []
    for launcher, options in (("hosts.sh", []), ("mpirun.sh", ["--interface", "eth0"])):

        def command(*flags, launcher=launcher, options=options):
            return network.launcher(launcher, hosts, *flags, options=options)

        jobs.append(start_job(network, tiny, tmp_path, command, launcher))
    for _, log in jobs:
        wait_until(lambda log=log: "epoch 2, loss" in log.read_text(), 180, log.read_text)
    network.disconnect("hostb")
    try:
        for job, log in jobs:
            assert job.wait(timeout=180) != 0
            assert re.search(LOST_HOST, log.read_text()), log.read_text()
    finally:
        network.reconnect("hostb")
    assert_no_processes_left(network, "hosta", "hostc")


def test_an_elastic_run_continues_without_a_host_and_uses_a_new_one(
    network, tiny, one_process, tmp_path
):
    """hostb fails in the first epochs; hostc is added to the file of hosts later."""
    hosts = tmp_path / "hosts.txt"
    hosts.write_text("hosta slots=1\nhostb slots=1\n")

    def command(*flags):
        return network.launcher("elastic.sh", str(hosts), *flags)

    job, log = start_job(network, tiny, tmp_path, command, "run")
    try:
        wait_until(lambda: "epoch 2, loss" in log.read_text(), 180, log.read_text)
        for process in network.processes("hostb"):
            with contextlib.suppress(psutil.Error):  # the process has just ended
                if "dist_ft.train" in process.cmdline():
                    process.kill()
        wait_until(lambda: "on 1 x cpu(0) from step" in log.read_text(), 180, log.read_text)
        hosts.write_text("hosta slots=1\nhostc slots=1\n")
        wait_until(lambda: "on 2 x cpu(0) from step" in log.read_text(), 180, log.read_text)
        wait_until(lambda: log.read_text().rstrip().endswith("sec"), 180, log.read_text)
    finally:
        psutil.Process(job.pid).children()[0].terminate()  # the launcher, a child of nsenter
        wait_until(lambda: job.poll() is not None, 180, log.read_text)
    assert "stopped by SIGTERM before step" in log.read_text()
    rows = scores(tmp_path / "run")
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    for exact in ("train_accuracy", "test_correct", "confusion", "step"):
        assert rows[0][exact] == one_process[0][exact]
    expected = pytest.approx(one_process[0]["train_loss"], rel=LOSS_TOLERANCE)
    assert rows[0]["train_loss"] == expected
    assert all(row["test_images"] == 101 for row in rows)
    assert_no_processes_left(network, *HOSTS)


def assert_no_processes_left(network, *hosts):
    """The processes of a job end by themselves."""
    wait_until(lambda: not running(network, *hosts), 120, lambda: str(running(network, *hosts)))


def running(network, *hosts):
    names = []
    for host in hosts:
        for process in network.processes(host):
            with contextlib.suppress(psutil.Error):  # the process has just ended
                names.append(process.name())
    return [name for name in names if name != "sshd"]


def network_namespaces(processes):
    namespaces = set()
    for process in processes:
        with contextlib.suppress(OSError):  # the process has just ended
            namespaces.add(os.readlink(f"/proc/{process.pid}/ns/net"))
    return namespaces


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_the_hosts_end_with_the_process_that_started_them(tmp_path, signum):
    program = (
        "import sys, pathlib\n"
        "from tests.hosts.network import Network\n"
        f"with Network(pathlib.Path({str(tmp_path)!r}), ['hostx', 'hosty']) as network:\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(network_namespaces(children)) == 3  # two hosts and the bridge
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert not psutil.wait_procs(children, timeout=20)[1]
