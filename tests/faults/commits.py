"""What a commit costs an elastic run: the copy of ResNet34_v2's state that it keeps in memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests import test_elastic as elastic
from tests.conftest import ENVIRONMENT, REPO

WORKER = str(REPO / "tests" / "workers" / "commits.py")
STEPS = 8
FLAGS = [
    *("--weights", "none", "--image-size", "64", "--batch-size", "200", "--max-steps", str(STEPS)),
    *("--elastic", "--commit-every", "10"),
]


class Summary(NamedTuple):
    commits: int
    commit_ms: float  # the median
    step_ms: float  # the median


def run(root: Path, hosts: list[str], data: Path) -> Summary:
    root.mkdir()
    words = [WORKER, str(root / "times"), "--data", str(data), "--out", str(root / "run"), *FLAGS]
    ended = elastic.carry(root, hosts, words, timeout_s=900)
    assert ended.status == 0, ended.output
    times = json.loads((root / "times").read_text())
    medians = (statistics.median(times[name]) for name in ("commits_ms", "steps_ms"))
    return Summary(len(times["commits_ms"]), *medians)


def summary(_: int) -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        words = ["food5/sample.py", "--out", str(data), "--train", "40", "--test", "10"]
        subprocess.run([sys.executable, *words], cwd=REPO, env=ENVIRONMENT, check=True)
        found = {}
        for ranks in (1, 2):
            hosts = elastic.HOSTS[:ranks]
            found[str(ranks)] = run(Path(folder, str(ranks)), hosts, data)._asdict()
            print(ranks, found[str(ranks)], flush=True)
        return found
