"""The doctor looks at the hosts of a job, and names each that would stop or slow it, and why.

The hosts are those of hosts/network.py; what is wrong on one of them is mounted over what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft import census, clock, hosts, link, network, remote
from dist_ft.errors import UserError
from dist_ft.finding import FAIL, NOTE, OK
from tests.conftest import BIN, REPO
from tests.hosts.network import SSH_PORT, Network, missing

needs_hosts = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    with Network(tmp_path_factory.mktemp("net"), ["hosta", "hostb", "hostc"]) as net:
        yield net


def examine(net, tiny, tmp_path, places, *options):
    ssh = ["--port", str(SSH_PORT), "--key", str(net.key)]
    words = [sys.executable, "-m", "dist_ft.doctor", "--hosts", places, *ssh, *options]
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    return net.run("hosta", [*words, *flags], tmp_path, 180)


def line_of(ended, verdict, name):
    (line,) = re.findall(rf"^{verdict} +{name} +(.*\n.*)", ended.output, re.M)
    return line


@contextlib.contextmanager
def mounted(net, host, over, place):
    """One host sees a file or a folder in another's place."""
    assert net.run(host, ["mount", "--bind", str(over), str(place)], REPO, 20).status == 0
    try:
        yield
    finally:
        assert net.run(host, ["umount", "--lazy", str(place)], REPO, 20).status == 0


@contextlib.contextmanager
def on_host(net, host, do, undo):
    ended = net.run(host, do.split(), REPO, 20)
    assert ended.status == 0, ended.output
    try:
        yield
    finally:
        assert net.run(host, undo.split(), REPO, 20).status == 0


@needs_hosts
def test_hosts_that_are_alike_get_no_failure_and_status_0(net, tiny, tmp_path):
    ended = examine(net, tiny, tmp_path, "hosta:1,hostb:1,hostc:2")
    assert ended.status == 0, ended.output
    assert "FAIL" not in ended.output
    assert line_of(ended, "ok", "hosts").startswith("hosta, hostb, hostc: ready")
    assert re.match(r"Python 3\.\d+\.\d+, MXNet 1\.9\.1,.*Hor", line_of(ended, "ok", "versions"))
    assert "on all" in line_of(ended, "ok", "code")
    assert line_of(ended, "ok", "images").startswith("classes: 5, train images: 53 of")
    assert line_of(ended, "ok", "clocks").startswith("within 0.")
    assert line_of(ended, "ok", "interface").startswith(
        "eth0 on all: 10.77.0.1, 10.77.0.2, 10.77.0.3"
    )
    assert "--interface eth0" in line_of(ended, "note", "interface")  # every host has a docker0
    assert re.match(r"\d+\.\d{3} GB/s and .* 85 MB of gradients", line_of(ended, "ok", "network"))
    for host in ("hostb", "hostc"):
        assert "Accepted publickey" in (net.folder / f"{host}.log").read_text()


@needs_hosts
def test_each_host_that_is_unlike_the_others_is_named_with_what_is_wrong(net, tiny, tmp_path):
    data, code, names = tmp_path / "data", tmp_path / "code", tmp_path / "hosts"
    shutil.copytree(tiny, data)
    next((data / "train/class_a").iterdir()).unlink()
    shutil.copytree(REPO / "dist_ft", code)
    with (code / "schedule.py").open("a") as file:
        file.write("\n# another version\n")
    names.write_text((net.folder / "hosts").read_text() + "127.0.1.1 hosta\n")
    names.write_text(re.sub("(?m)^10.*hosta$", "", names.read_text()))
    (tmp_path / "broken").touch()
    library = subprocess.run(
        [sys.executable, "-c", "import mxnet.libinfo as m; print(m.find_lib_path()[0])"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    deaf = "ip route {} blackhole 10.77.0.3/32"
    with contextlib.ExitStack() as wrong:
        wrong.enter_context(mounted(net, "hostb", data, tiny))
        wrong.enter_context(mounted(net, "hostb", names, "/etc/hosts"))
        wrong.enter_context(mounted(net, "hostc", code, REPO / "dist_ft"))
        wrong.enter_context(mounted(net, "hostc", tmp_path / "broken", library))
        wrong.enter_context(on_host(net, "hostb", deaf.format("add"), deaf.format("del")))
        options = ["--interface", "eth0"]
        ended = examine(net, tiny, tmp_path, "hosta:1,hostb:1,hostc:1,10.77.0.99:1", *options)
    assert ended.status == 1, ended.output
    assert "Traceback" not in ended.output
    assert line_of(ended, "FAIL", "hosts").startswith("10.77.0.99: ssh does not come through:")
    versions = line_of(ended, "FAIL", "versions")
    assert "MXNet 1.9.1 on hosta, hostb; missing (" in versions and "on hostc" in versions
    assert "numpy" not in versions
    assert re.match(
        r"dist_ft is \w+ on hosta, hostb; \w+ on hostc\n", line_of(ended, "FAIL", "code")
    )
    broken, images = re.findall("FAIL +images +(.*)", ended.output)
    assert broken.endswith("file too short on hostc")
    assert re.search(r"train images: 53 of \S+ \w+ on hosta; 52 of \S+ \w+ on hostb", images)
    assert line_of(ended, "FAIL", "names").startswith("hosta is 127.0.1.1 on hostb")
    assert line_of(ended, "FAIL", "network").startswith("hostb -> hostc: ")
    assert "note  interface" not in ended.output


@needs_hosts
@pytest.mark.skipif(not shutil.which("tc"), reason="no tc here (apt-get install iproute2)")
def test_a_host_that_does_not_answer_is_named_and_a_slow_network_is_noted(net, tiny, tmp_path):
    slow = "tc qdisc {} dev eth0 root tbf rate 200mbit burst 128k latency 50ms"
    with on_host(net, "hostb", slow.format("add"), slow.format("del")):
        net.cut("hostc")
        try:
            ended = examine(net, tiny, tmp_path, "hosta:1,hostb:1,hostc:1")
        finally:
            net.mend("hostc")
    assert ended.status == 1
    assert line_of(ended, "FAIL", "hosts").startswith("hostc: ssh does not come through: ")
    assert line_of(ended, "ok", "hosts").startswith("hosta, hostb: ready")
    slowly = line_of(ended, "note", "network")
    assert float(slowly.split()[0]) == pytest.approx(0.025, rel=0.3)
    assert "(hostb -> hosta)" in slowly and "below 1 Gbit/s" in slowly


def ask(words, allowed_s):
    async def asked():
        probe = await remote.Remote.start(words)
        try:
            return await probe.ask(allowed_s, ask="clock")
        finally:
            await probe.close()
            assert probe._process.returncode is not None

    return asyncio.run(asked())


def test_a_probe_that_says_nothing_is_given_up_and_ended():
    with pytest.raises(remote.Lost, match="no answer within 1 s"):
        ask(["sleep", "1000"], 1)


@pytest.mark.parametrize(
    "script, told",
    [
        ("echo broken >&2; exit 3", "ended with status 3: broken"),
        (f"exit {remote.NO_FOLDER}", "there is no folder"),
        (f"exit {remote.NO_PYTHON}", "install there too"),
        ("echo refused >&2; exit 255", "ssh does not come through: refused"),
    ],
)
def test_a_probe_that_ends_is_told_with_its_last_words(script, told):
    with pytest.raises(remote.Lost, match=told):
        ask(["sh", "-c", script], 20)


def test_what_a_login_shell_says_before_is_no_answer():
    script = f"echo welcome; exec {sys.executable} -m dist_ft.probe"
    assert set(ask(["sh", "-c", script], 60)) == {"received", "replied"}


def test_ssh_is_asked_as_the_launchers_ask_it():
    launchers = (REPO / "launch/ssh/ssh").read_text().replace("\\\n", " ")
    assert re.findall(r"-o (\S+)", launchers) == list(remote.SSH[2::2])


def test_hosts_are_read_as_the_launchers_read_them(tmp_path):
    file = tmp_path / "hosts.txt"
    file.write_text("# ours\nhost-1.lan slots=4\n\nh_2   slots = 2 # old\n10.0.0.3\nh4:3\n")
    for text in (str(file), "a:4,b:2", "a.b-c:10"):
        words = [REPO / "launch/hosts.sh", "--dry-run", text]
        env = {"VENV": str(BIN.parent), "PATH": "/usr/bin:/bin"}
        line = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
        listed = re.search(r" -H (\S+)", line)[1]
        assert ",".join(f"{name}:{n}" for name, n in hosts.read(text).items()) == listed


@pytest.mark.parametrize("text", ["host1", "a:0", "a:1,$(id):1", "", "a:1,", "/nowhere/hosts"])
def test_what_is_no_list_of_hosts_is_refused(text):
    with pytest.raises(UserError, match="neither a file of hosts nor of the form"):
        hosts.read(text)


times = st.floats(0, 1e4)


@given(ahead_s=st.floats(-1e6, 1e6), there_s=times, busy_s=times, back_s=times)
def test_a_clock_is_known_to_half_of_its_round_trip(ahead_s, there_s, busy_s, back_s):
    received = there_s + ahead_s
    found = clock.compare(0.0, received, received + busy_s, there_s + busy_s + back_s)
    assert found.round_trip_s == pytest.approx(there_s + back_s, abs=1e-6)
    assert abs(found.offset_s - ahead_s) <= found.round_trip_s / 2 + 1e-6
    assert found.surely_off_s <= abs(ahead_s) + 1e-6


def test_a_clock_that_is_surely_off_is_noted_by_host():
    clocks = {"a": clock.Clock(0.0, 0.1), "b": clock.Clock(3.0, 0.1), "c": clock.Clock(3.0, 5.0)}
    (told,) = census.examine_clocks(clocks)
    assert (told.verdict, told.found.split()[:3]) == (NOTE, ["b", "is", "+3.0"])


values = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), min_size=1)


@given(values)
def test_a_difference_names_each_host_once_beside_its_value(values):
    told = census.spread(values)
    if len(set(values.values())) == 1:
        assert told == str(next(iter(values.values())))
        return
    parts = [part.split(" on ") for part in told.split("; ")]
    named = {name: int(value) for value, names in parts for name in names.split(", ")}
    assert named == values
    assert len(parts) == len(set(values.values()))


HOST = {
    "versions": {"Python": "3.11.7", "MXNet": "1.9.1"},
    "code": "c0de",
    "images": {"classes": 5, "train images": "10 of fingerprint f"},
    **{"cores": 8, "gpus": 4, "shared_mb": 1e4, "disk_mb": 1e5, "folder": "/run"},
    "interfaces": {"lo": "127.0.0.1", "eth0": ""},
}


def answers(**host):
    """Of three hosts, with a host's own changes."""
    addresses = {name: f"10.0.0.{i}" for i, name in enumerate("abc", 1)}
    return {
        name: {
            **HOST,
            "addresses": dict(addresses),
            "interfaces": {"lo": "127.0.0.1", "eth0": addresses[name]},
            **host.get(name, {}),
        }
        for name in addresses
    }


def findings(told):
    return [
        *census.examine_versions(told),
        *census.examine_code(told),
        *census.examine_images(told, "food5"),
        *census.examine_ranks(told, dict.fromkeys(told, 4)),
        *census.examine_space(told),
        *census.examine_names(told),
        *census.examine_interfaces(told, "eth0", False),
    ]


def test_hosts_that_are_alike_are_all_well():
    assert {finding.verdict for finding in findings(answers())} == {OK}


@pytest.mark.parametrize(
    "change, verdict",
    [
        ({"versions": {"Python": "3.11.7", "MXNet": "1.9.0"}}, FAIL),
        ({"versions": {"Python": "3.11.7", "MXNet": "missing (No module)"}}, FAIL),
        ({"code": "0ther"}, FAIL),
        ({"images": {"error": "no such folder"}}, FAIL),
        ({"images": {**HOST["images"], "train images": "9 of fingerprint g"}}, FAIL),
        ({"gpus": 2}, FAIL),
        ({"gpus": 8}, NOTE),
        ({"gpus": 0, "cores": 2}, NOTE),
        ({"shared_mb": 64}, NOTE),
        ({"interfaces": {"lo": "127.0.0.1", "ib0": "10.0.0.2"}}, FAIL),
        ({"addresses": {"a": "127.0.1.1", "b": "10.0.0.2", "c": "10.0.0.3"}}, FAIL),
        ({"addresses": {"a": "10.0.0.1", "b": "127.0.1.1", "c": "10.0.0.3"}}, NOTE),
        ({"addresses": {"a": "", "b": "10.0.0.2", "c": "10.0.0.3"}}, NOTE),
    ],
)
def test_one_host_that_is_unlike_the_others_is_named_in_one_finding(change, verdict):
    (told,) = [f for f in findings(answers(b=change)) if f.verdict != OK]
    assert told.verdict == verdict
    assert re.search(r"\bb\b", told.found) and told.remedy


def test_the_disk_of_the_host_that_writes_the_run_must_have_room():
    full = {"disk_mb": 10.0}
    verdicts = {
        name: {f.verdict for f in census.examine_space(answers(**{name: full}))} for name in "ab"
    }
    assert verdicts == {"a": {FAIL}, "b": {NOTE}}


def test_what_no_host_has_is_a_failure_too():
    lacking = {"versions": {"Horovod": "missing (not installed)"}}
    (told,) = census.examine_versions(answers(a=lacking, b=lacking, c=lacking))
    assert told.verdict == FAIL


def test_a_sum_over_two_hosts_crosses_each_link_once_and_over_many_almost_twice():
    assert census.ring_s(1.0, 2, 0.5) == pytest.approx(2.0)
    assert census.ring_s(1.0, 1000, 0.5) == pytest.approx(4.0, rel=0.01)


def test_the_side_that_listens_serves_only_who_knows_the_token():
    port = link.listen("127.0.0.1", "right")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger:
        stranger.sendall(b"wrong" + b"." * 100)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    measured = link.measure("127.0.0.1", port, "right")
    assert measured.gb_per_s > 0 and measured.latency_s > 0
    with pytest.raises(OSError):  # it has served once
        link.measure("127.0.0.1", port, "right")


def test_this_host_knows_its_interfaces_and_itself():
    assert network.interfaces()["lo"] == "127.0.0.1"
    theirs = {
        address.address: name
        for name, has in psutil.net_if_addrs().items()
        for address in has
        if address.family == socket.AF_INET
    }
    assert network.addresses() == theirs
    assert network.is_here("127.0.0.1") and not network.is_here("192.0.2.77")
    assert network.interface_towards(["127.0.0.1"]) == ""
    assert network.address_of("no.such.host.invalid") == ""
