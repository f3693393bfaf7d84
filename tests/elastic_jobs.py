"""Starts elastic jobs on several names of this machine, and reads what their ranks recorded.

workers/elastic.py writes the records, one JSON object per line and one file per process.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import numpy as np
import pytest

from dist_ft.training import checkpoint
from tests.conftest import REPO, TINY, Ended, run_command, run_job

WORKER = str(REPO / "tests" / "workers" / "elastic.py")
COMMIT_EVERY = 4
STEPS_PER_EPOCH = 7  # 53 images, eight at a time
EPOCHS = 6
STEPS = range(EPOCHS * STEPS_PER_EPOCH)
RECIPE = [*TINY, "--bn", "frozen", "--batch-size", "8", "--epochs", str(EPOCHS), "--lr", "0.005"]
RECIPE += ["--momentum", "0.9"]  # so that the optimizer has state, which must survive, too
RECIPE += ["--ema", "0.9"]  # and so do the averages, and the parameters beside them
RECIPE += ["--balance", "--mixup", "0.4"]  # drawn alike by any number of ranks
ELASTIC = ["--elastic", "--commit-every", str(COMMIT_EVERY), "--check-every", "1"]
EPS = float(np.finfo(np.float32).eps)
# Per step, a sum over up to eight images whose order depends on the ranks; momentum 0.9 lets an
# error count ten times.
TOLERANCE = 10 * len(STEPS) * 8 * EPS


def local_names() -> list[str]:
    """Names of this machine that differ, so that Horovod counts each as a host."""
    names = []
    for name in ("127.0.0.1", "localhost", socket.gethostname()):
        try:
            with socket.socket() as probe:
                probe.bind((name, 0))
        except OSError:
            continue
        names.append(name)
    return names


HOSTS = local_names()[:2]


class RankGroup(NamedTuple):
    """Ranks that were connected, until some were lost or added."""

    connected_at: float  # time.time()
    first_step: int
    size: int
    images: dict[int, Counter]  # of each step, from all ranks that have completed it


def records(log: Path) -> Iterator[dict[str, Any]]:
    """All records, one process after the other."""
    for file in log.glob("*-*"):
        yield from map(json.loads, file.read_text().splitlines())


def rank_groups(log: Path) -> list[RankGroup]:
    """In the order in which they were connected."""
    groups: dict[float, RankGroup] = {}
    for record in records(log):
        if "connected_at" in record:
            new = RankGroup(record["connected_at"], record["first_step"], record["size"], {})
            group = groups.setdefault(new.connected_at, new)
            assert (group.first_step, group.size) == (new.first_step, new.size)
        elif "step" in record:
            group.images.setdefault(record["step"], Counter()).update(record["images"])
    return sorted(groups.values())


def applied_images(log: Path) -> dict[int, Counter]:
    """The images of each step that are part of the final parameters.

    A group continues from the state that an earlier one had before the group's first step.
    """
    applied: dict[int, Counter] = {}
    for group in rank_groups(log):
        applied = {step: images for step, images in applied.items() if step < group.first_step}
        assert not set(applied) & set(group.images)
        applied.update(group.images)
    return applied


def repeated_steps(log: Path) -> list[int]:
    """For each group but the first, how many of its steps had been made before."""
    groups = rank_groups(log)
    return [
        max(before.images, default=-1) + 1 - after.first_step
        for before, after in zip(groups, groups[1:])
    ]


def reductions_per_step(log: Path) -> set[int]:
    """The numbers of allreduce operations that steps used for their gradients."""
    return {record["num_reductions"] for record in records(log) if "num_reductions" in record}


def write_hosts(file: Path, hosts: list[str]) -> None:
    file.write_text("".join(f"{host}:1\n" for host in hosts))


def launch(
    root: Path,
    hosts: list[str],
    words: list[str],
    gloo_timeout_s: int = 60,
    cooldown_s: int = 5,
    timeout_s: float = 150,
) -> Ended:
    """Runs `python WORDS` elastically on the hosts that the file ROOT/hosts lists at each moment.

    gloo_timeout_s: after which Gloo gives up a rank that does not answer or does not start;
    cooldown_s: after which a host is used again on which a process has failed. Within a second or
    two, Horovod's driver may count on the host before it can start a process there.
    """
    write_hosts(root / "hosts", hosts)
    launcher = [
        *("horovodrun", "-np", str(len(hosts)), "--min-np", "1", "--gloo", "--disable-cache"),
        *("--network-interface", "lo", "--gloo-timeout-seconds", str(gloo_timeout_s)),
        *("--blacklist-cooldown-range", str(cooldown_s), str(cooldown_s + 1)),
        *("--host-discovery-script", f"cat {root}/hosts"),
    ]
    return run_command([*launcher, sys.executable, *words], timeout_s)


def train_elastic(root: Path, hosts: list[str], data: Path, *flags: str, **timeouts: int) -> Ended:
    """The recipe below ROOT, which must succeed.

    flags: of workers/elastic.py and of train; timeouts: of `launch`.
    """
    paths = ["--data", str(data), "--out", str(root / "run")]
    words = [WORKER, str(root / "log"), *paths, *RECIPE, *ELASTIC, *flags]
    ended = launch(root, hosts, words, **timeouts)
    assert ended.status == 0, ended.output
    return ended


def train_undisturbed(root: Path, data: Path) -> Path:
    """The recipe in one process, for comparison."""
    words = [str(root / "log"), "--data", str(data), "--out", str(root / "run"), *RECIPE]
    ended = run_job([WORKER, *words], 120)
    assert ended.status == 0, ended.output
    return root


def assert_same_run(root: Path, expected_root: Path) -> None:
    """The same images in every step, and the same scores and parameters at the end."""
    images, expected = applied_images(root / "log"), applied_images(expected_root / "log")
    assert set(images) == set(expected) == set(STEPS)
    assert all(images[step] == expected[step] for step in STEPS)
    assert_same_scores(root, expected_root)


def assert_same_scores(root: Path, expected_root: Path) -> None:
    saved, expected = (checkpoint.latest(path / "run") for path in (root, expected_root))
    assert saved.step == expected.step == len(STEPS)
    arrays, expected_arrays = saved.net_arrays(), expected.net_arrays()
    for name, array in expected_arrays.items():
        np.testing.assert_allclose(
            arrays[name].asnumpy(), array.asnumpy(), rtol=0, atol=TOLERANCE, err_msg=name
        )
    rows, expected_rows = _rows(root), _rows(expected_root)
    assert len(rows) == len(expected_rows) == EPOCHS
    for row, expected_row in zip(rows, expected_rows):
        assert row["train_loss"] == pytest.approx(expected_row["train_loss"], rel=TOLERANCE)
        for name in ("train_accuracy", "test_correct", "test_images", "confusion", "step"):
            assert row[name] == expected_row[name]


def _rows(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "run" / "scores.jsonl").read_text().splitlines()]
