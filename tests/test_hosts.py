"""Several hosts are one run, by each launcher; one that is not there, or no longer, is named.

The hosts are made of Linux namespaces, see hosts/network.py: each has its own address and sshd, and
like many a real one a docker0 of the same address as all others'.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import BIN, ENVIRONMENT, REPO, TINY, needs_mpi, train
from tests.hosts.cluster import until
from tests.hosts.network import SSH_PORT, Network, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

HOSTS = ["hosta", "hostb", "hostc"]
FROZEN = [*TINY, "--bn", "frozen"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with Network(tmp_path_factory.mktemp("net"), HOSTS) as network:
        yield network


def command(network, launcher, hosts, *flags, options=()):
    ssh = ["--port", str(SSH_PORT), "--key", str(network.key)]
    return [str(REPO / "launch" / launcher[0]), *launcher[1:], *ssh, *options, hosts, *flags]


def launch(network, tmp_path, *words, timeout_s=90, **options):
    words = command(network, *words, **options)
    return network.run("hosta", words, tmp_path, timeout_s, VENV=str(BIN.parent))


def scores(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    train("--data", str(tiny), "--out", str(out), *FROZEN)
    return scores(out)


LAUNCHES = [
    pytest.param(["hosts.sh"], "hosta:1,hostb:1,hostc:1", id="gloo"),
    pytest.param(["hosts.sh", "--mpi"], "hosta:1,hostb:1", id="horovodrun-mpi", marks=needs_mpi),
    pytest.param(["mpirun.sh"], "hosta:1,hostb:1,hostc:1", id="mpirun", marks=needs_mpi),
]


@pytest.mark.parametrize("launcher, hosts", LAUNCHES)
def test_several_hosts_carry_the_run_of_one_process(
    network, tiny, alone, tmp_path, launcher, hosts
):
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *FROZEN]
    ended = launch(network, tmp_path, launcher, hosts, *flags)
    assert ended.status == 0, ended.output
    assert f"on {hosts.count(':')} x cpu(0)" in ended.output
    for host in hosts.replace(":1", "").split(",")[1:]:
        assert "Accepted publickey" in (network.folder / f"{host}.log").read_text()
    for one, many in zip(alone, scores(tmp_path / "run")):
        assert many["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert many["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)
        for exact in ("train_accuracy", "test_correct", "test_images", "confusion", "step"):
            assert many[exact] == one[exact]
    assert len(alone) == len(scores(tmp_path / "run"))


@pytest.mark.parametrize("launcher", ["hosts.sh", "mpirun.sh"])
def test_a_dead_address_is_named_soon(network, tmp_path, launcher):
    ended = launch(network, tmp_path, [launcher], "hosta:1,hostb:1,10.77.0.99:1")
    assert ended.status == 1
    assert ended.elapsed_s < 30
    told = [line for line in ended.output.splitlines() if "does not come through" in line]
    assert len(told) == 1
    assert "10.77.0.99" in told[0] and "launch/README.md" in told[0]


def test_a_missing_interface_is_named_with_those_that_there_are(network, tmp_path):
    options = ["--interface", "ib7"]
    ended = launch(network, tmp_path, ["hosts.sh"], "hosta:1,hostb:1", options=options)
    assert ended.status == 1
    for host in ("hosta", "hostb"):
        assert f"{host}: there is no network interface ib7" in ended.output
    assert "docker0, eth0, lo" in ended.output


def test_a_host_without_the_folder_is_named(network, tmp_path):
    """Each host has the folder of this test: a launch from a folder that only hosta has."""
    (tmp_path / "mount").mkdir()
    script = (
        f"mount -t tmpfs tmpfs {tmp_path}/mount && mkdir {tmp_path}/mount/own && "
        f"cd {tmp_path}/mount/own && " + " ".join(command(network, ["hosts.sh"], "hosta:1,hostb:1"))
    )
    words = ["bash", "-c", script]
    ended = network.run("hosta", words, tmp_path, 60, VENV=str(BIN.parent))
    assert ended.status == 1
    assert f"hostb: there is no folder {tmp_path}/mount/own" in ended.output
    assert "hosta:" not in ended.output


def jobs_that_step(network, tiny, tmp_path, launchers):
    """A job of all three hosts by each launcher, started together; when all of them train."""
    jobs = {}
    for name, flags in launchers.items():
        out = ["--data", str(tiny), "--out", str(tmp_path / name), *FROZEN, "--epochs", "1000"]
        words = command(network, [name], "hosta:1,hostb:1,hostc:1", *out, *flags)
        with (tmp_path / f"{name}.log").open("w") as log:
            jobs[name] = network.start("hosta", words, tmp_path, log, VENV=str(BIN.parent))
    deadline = time.monotonic() + 60
    for name in jobs:
        while "epoch 2, loss" not in (told := (tmp_path / f"{name}.log").read_text()):
            assert time.monotonic() < deadline and jobs[name].poll() is None, told
            time.sleep(0.2)
    return jobs


NAMED = r"server hostb not responding|Remote daemon: .* on node hostb"  # whichever comes first


@needs_mpi
def test_a_host_whose_link_goes_down_ends_the_job_and_is_named(network, tiny, tmp_path):
    """By ssh's keep-alives or Open MPI's own, long before the stall timeout of five minutes."""
    launchers = {"hosts.sh": [], "mpirun.sh": []}
    jobs = jobs_that_step(network, tiny, tmp_path, launchers)
    network.cut("hostb")
    start = time.monotonic()
    try:
        for name, job in jobs.items():
            assert job.wait(timeout=start + 90 - time.monotonic()) not in (0, None)
            told = (tmp_path / f"{name}.log").read_text()
            assert re.search(NAMED, told), told
    finally:
        network.mend("hostb")
    assert_nothing_runs(network, "hosta", "hostc")


def test_an_elastic_run_outlives_a_host_and_takes_in_another(network, tiny, alone, tmp_path):
    """hostb is lost in the first epochs; hostc is written into the file of hosts later on."""
    hosts, log = tmp_path / "hosts.txt", tmp_path / "log"
    hosts.write_text("hosta slots=1\nhostb slots=1\n")
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *FROZEN, "--epochs", "1000"]
    words = command(network, ["elastic.sh"], str(hosts), *flags)
    with log.open("w") as output:
        job = network.start("hosta", words, tmp_path, output, VENV=str(BIN.parent))
    try:
        until(lambda: "epoch 2, loss" in log.read_text(), 60, log.read_text)
        for process in network.processes("hostb"):
            with contextlib.suppress(psutil.Error):  # it has just ended
                if "dist_ft.train" in process.cmdline():
                    process.kill()
        until(lambda: "on 1 x cpu(0) from step" in log.read_text(), 60, log.read_text)
        hosts.write_text("hosta slots=1\nhostc slots=1\n")
        until(lambda: "on 2 x cpu(0) from step" in log.read_text(), 60, log.read_text)
        until(lambda: log.read_text().rstrip().endswith("sec"), 60, log.read_text)
    finally:
        psutil.Process(job.pid).children()[0].terminate()  # what nsenter has started
        until(lambda: job.poll() is not None, 60, log.read_text)
    told = log.read_text()
    assert "stopped by SIGTERM before step" in told
    rows = scores(tmp_path / "run")
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    for exact in ("train_accuracy", "test_correct", "confusion", "step"):
        assert rows[0][exact] == alone[0][exact]
    assert rows[0]["train_loss"] == pytest.approx(alone[0]["train_loss"], rel=1e-4)
    assert all(row["test_images"] == 101 for row in rows)
    assert_nothing_runs(network, *HOSTS)


def assert_nothing_runs(network, *hosts, timeout_s=40):
    """What a job left behind on the hosts ends by itself, soon."""
    deadline = time.monotonic() + timeout_s
    while left := [name for host in hosts for name in running(network, host)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def running(network, host):
    names = []
    for process in network.processes(host):
        with contextlib.suppress(psutil.Error):  # it has just ended
            names.append(process.name())
    return [name for name in names if name != "sshd"]


def namespaces(processes):
    """The networks that they live in."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):  # sshd's for a visit that is over by now
            found.add(os.readlink(f"/proc/{process.pid}/ns/net"))
    return found


def test_the_hosts_leave_nothing_behind_however_their_maker_ends(tmp_path):
    program = (
        "import sys, pathlib\n"
        "from tests.hosts.network import Network\n"
        f"with Network(pathlib.Path({str(tmp_path)!r}), ['hostx', 'hosty']) as network:\n"
        "    print('made', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    for end in (signal.SIGKILL, signal.SIGINT):
        (tmp_path / "key").unlink(missing_ok=True)
        maker = subprocess.Popen(
            [sys.executable, "-c", program],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert maker.stdout.readline() == "made\n"
        made = psutil.Process(maker.pid).children(recursive=True)
        assert len(namespaces(made)) == 3
        maker.send_signal(end)
        maker.communicate(timeout=30)
        assert not psutil.wait_procs(made, timeout=20)[1]
