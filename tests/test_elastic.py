"""An elastic run that loses ranks and is given others is the run that nothing happened to."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import mxnet as mx
import numpy as np
import psutil
import pytest

from dist_ft.distributed import rank_failure
from dist_ft.training import checkpoint
from tests.conftest import REPO, TINY, Ended, run_command, run_job
from tests.hosts.cluster import wait_until

WORKER = str(REPO / "tests" / "workers" / "elastic.py")
COMMIT_EVERY = 4
RECIPE = [*TINY, "--bn", "frozen", "--batch-size", "8", "--epochs", "6", "--lr", "0.005"]
RECIPE += ["--momentum", "0.9"]  # the optimizer's arrays are handed on, too
ELASTIC = ["--elastic", "--commit-every", str(COMMIT_EVERY), "--check-every", "1"]
STEPS = range(6 * 7)  # 53 images an epoch, eight at a time


def local_names() -> list[str]:
    """Names of this machine, each of which Horovod takes for a host."""
    names = []
    for name in ("127.0.0.1", "localhost", socket.gethostname()):
        try:
            with socket.socket() as bound:
                bound.bind((name, 0))
        except OSError:
            continue
        names.append(name)
    return names


HOSTS = local_names()[:2]
pytestmark = pytest.mark.skipif(len(HOSTS) < 2, reason="this machine has no second name")


class HorovodWorld(NamedTuple):
    """Ranks that came together, and what they did until some were lost or added."""

    since: float
    begins: int
    size: int
    steps: dict[int, Counter]  # the images of all ranks that have told of the step


def records(log: Path) -> Iterator[dict[str, Any]]:
    """What the processes told, one process after the other."""
    for file in log.glob("*-*"):
        yield from map(json.loads, file.read_text().splitlines())


def worlds(log: Path) -> list[HorovodWorld]:
    found: dict[float, HorovodWorld] = {}
    for told in records(log):
        if "since" in told:
            empty = HorovodWorld(told["since"], told["begins"], told["size"], {})
            world = found.setdefault(told["since"], empty)
            assert world.begins == told["begins"] and world.size == told["size"]
        elif "step" in told:
            world.steps.setdefault(told["step"], Counter()).update(told["images"])
    return sorted(found.values())


def history(log: Path) -> dict[int, Counter]:
    """Of each step, the images that it was made of, as they are in the final parameters: a world
    goes on from what an earlier one had done up to the step that it begins with."""
    made: dict[int, Counter] = {}
    for world in worlds(log):
        made = {step: images for step, images in made.items() if step < world.begins}
        assert not set(made) & set(world.steps)
        made.update(world.steps)
    return made


def sums(log: Path) -> set[int]:
    """By how many operations each step's gradients were summed over the ranks."""
    return {told["sums"] for told in records(log) if "sums" in told}


def repeated(log: Path) -> list[int]:
    """Of each world but the first, how many of its steps had been made before."""
    found = worlds(log)
    return [max(a.steps, default=-1) + 1 - b.begins for a, b in zip(found, found[1:])]


def carry(
    root: Path, hosts: list[str], words: list[str], gloo_s: int = 60, timeout_s: float = 150
) -> Ended:
    """Runs `python WORDS` on the hosts that a file in `root` names at each moment.

    gloo_s: silence of a rank after which Gloo gives it up.
    """
    (root / "hosts").write_text("".join(f"{host}:1\n" for host in hosts))
    launcher = [
        *("horovodrun", "-np", str(len(hosts)), "--min-np", "1", "--gloo", "--disable-cache"),
        *("--network-interface", "lo", "--gloo-timeout-seconds", str(gloo_s)),
        *("--blacklist-cooldown-range", "1", "2", "--host-discovery-script", f"cat {root}/hosts"),
    ]
    return run_command([*launcher, sys.executable, *words], timeout_s)


def start(root: Path, hosts: list[str], data: Path, *grief: str, flags=(), gloo_s=60) -> Ended:
    """The run on them, below `root`, to its good end."""
    where = ["--data", str(data), "--out", str(root / "run")]
    words = [WORKER, str(root / "log"), *grief, *where, *RECIPE, *ELASTIC, *flags]
    ended = carry(root, hosts, words, gloo_s)
    assert ended.status == 0, ended.output
    return ended


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """One process that nothing happens to."""
    root = tmp_path_factory.mktemp("alone")
    words = [str(root / "log"), "--data", str(tiny), "--out", str(root / "run"), *RECIPE]
    ended = run_job([WORKER, *words], 90)
    assert ended.status == 0, ended.output
    return root


def assert_same_run(many: Path, alone: Path) -> None:
    one, other = history(alone / "log"), history(many / "log")
    assert set(one) == set(other) == set(STEPS)
    assert all(one[step] == other[step] for step in STEPS)
    assert_same_scores(many, alone)


def assert_same_scores(many: Path, alone: Path) -> None:
    one, other = (checkpoint.latest(root / "run") for root in (alone, many))
    assert one.step == other.step == len(STEPS)
    one, other = one.net_arrays(), other.net_arrays()
    for name in one:
        np.testing.assert_allclose(other[name].asnumpy(), one[name].asnumpy(), atol=1e-5)
    rows = [(root / "run" / "scores.jsonl").read_text().splitlines() for root in (alone, many)]
    for one, other in zip(*(map(json.loads, text) for text in rows)):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        for exact in ("train_accuracy", "test_correct", "test_images", "confusion", "step"):
            assert other[exact] == one[exact]
    assert len(rows[0]) == len(rows[1]) == 6


def test_a_rank_is_killed_and_its_host_comes_back(tiny, tmp_path, alone):
    start(tmp_path, HOSTS, tiny, "kill", f"{HOSTS[1]}:0", "9", "await", "21")
    assert [world.size for world in worlds(tmp_path / "log")] == [2, 1, 2]
    after_loss, after_addition = repeated(tmp_path / "log")
    assert 0 <= after_loss <= COMMIT_EVERY
    assert after_addition == 0
    assert sums(tmp_path / "log") == {0, 1}  # of one rank, and of two: one to fail with a loss
    assert_same_run(tmp_path, alone)


def test_a_host_is_added_and_one_of_two_ranks_is_asked_to_stop(tiny, tmp_path, alone):
    add = threading.Thread(target=add_host, args=(tmp_path / "log", tmp_path / "hosts"))
    add.start()
    ended = start(tmp_path, HOSTS[:1], tiny, "leave", f"{HOSTS[1]}:0", "16", "await", "9")
    add.join()
    assert [world.size for world in worlds(tmp_path / "log")][:3] == [1, 2, 1]
    assert repeated(tmp_path / "log")[:2] == [0, 0]
    told = rf"stopped by SIGTERM before step \d+; saved as {tmp_path}/\S+; the other ranks continue"
    assert re.search(told, ended.output), ended.output
    assert_same_run(tmp_path, alone)


def add_host(log: Path, hosts: Path) -> None:
    wait_until(lambda: log.exists() and history(log), 60)
    hosts.write_text("".join(f"{host}:1\n" for host in HOSTS))


def test_a_frozen_rank_is_ended_and_the_others_go_on(tiny, tmp_path, alone):
    grief = "stop", f"{HOSTS[1]}:0", "9"
    ended = start(tmp_path, HOSTS, tiny, *grief, flags=["--stall-timeout", "8"], gloo_s=5)
    assert [world.size for world in worlds(tmp_path / "log")][:2] == [2, 1]
    assert "exit with status code 137" in ended.output
    assert_same_run(tmp_path, alone)


def test_where_no_host_is_left_the_run_starts_again_from_its_last_commit(tiny, tmp_path, alone):
    """Horovod gives up the one host of a process that is lost."""
    launcher = [str(REPO / "launch" / "elastic.sh"), f"{HOSTS[0]}:2", "--data", str(tiny)]
    flags = ["--out", str(tmp_path / "run"), *RECIPE, "--commit-every", str(COMMIT_EVERY)]
    killer = threading.Thread(target=kill_rank_1, args=(tmp_path / "run",))
    killer.start()
    ended = run_command([*launcher, *flags], 150)
    killer.join()
    assert ended.status == 0, ended.output
    assert "restart: exit status" in ended.output
    (step,) = re.findall(r"resuming from \S+ at step (\d+) of", ended.output)
    assert int(step) % 7 % COMMIT_EVERY == 0 and int(step) > 0
    assert_same_scores(tmp_path, alone)


def kill_rank_1(run: Path) -> None:
    """In the midst of the second epoch."""
    wait_until(lambda: (run / "scores.jsonl").exists() and (run / "scores.jsonl").read_text(), 60)
    for process in psutil.process_iter(["cmdline"]):
        is_ours = str(run) in (process.info["cmdline"] or [])
        if is_ours and process.environ().get("HOROVOD_LOCAL_RANK") == "1":
            process.kill()


def test_processes_that_nobody_would_replace_are_not_elastic(tiny, tmp_path):
    words = ["-m", "dist_ft.train", "--data", str(tiny), "--out", str(tmp_path), *TINY, "--elastic"]
    ended = run_job(words, 60, num_ranks=2)
    assert ended.status != 0
    assert "not started by launch/elastic.sh" in ended.output


HANGS_UP = """
import socket
from dist_ft.distributed.connections import close_connections
listens = socket.create_server(("127.0.0.1", 0))
ours, (other, _) = socket.create_connection(listens.getsockname()), listens.accept()
close_connections()
assert other.recv(1) == b"", "the other end still waits"
ours, (other, _) = socket.create_connection(listens.getsockname()), listens.accept()
ours.sendall(b"x")
assert other.recv(1) == b"x"
"""


def test_a_rank_that_has_seen_a_loss_lets_those_go_that_wait_for_it():
    """Else they would until Gloo's timeout; where it listens it goes on to do so."""
    ended = run_job(["-c", HANGS_UP], 60)
    assert ended.status == 0, ended.output


@pytest.mark.parametrize(
    "told",
    [
        "Horovod has been shut down. This was caused by an exception on one of the ranks",
        "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:572] Connection closed by peer",
        'Traceback (most recent call last):\n  File "Read error [127.0.0.1]", line 37533\n'
        "MXNetError: Connection reset by peer",
    ],
)
def test_a_loss_is_told_from_an_error_by_what_mxnet_makes_of_horovods_words(told):
    assert rank_failure.is_rank_failure(mx.MXNetError(told))
    assert not rank_failure.is_rank_failure(mx.MXNetError("out of memory"))
    assert not rank_failure.is_rank_failure(RuntimeError(told))
