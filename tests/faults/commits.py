"""What a commit of an elastic run costs: copying ResNet34_v2's state to memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests import elastic_jobs
from tests.conftest import ENVIRONMENT, REPO

WORKER = str(REPO / "tests" / "workers" / "commits.py")
NUM_STEPS = 8
FLAGS = ["--weights", "none", "--image-size", "64", "--batch-size", "200"]
FLAGS += ["--max-steps", str(NUM_STEPS), "--elastic", "--commit-every", "10"]


class Summary(NamedTuple):
    commits: int
    commit_ms: float  # median
    step_ms: float  # median


def run(root: Path, hosts: list[str], data: Path) -> Summary:
    root.mkdir()
    words = [WORKER, str(root / "times"), "--data", str(data), "--out", str(root / "run"), *FLAGS]
    ended = elastic_jobs.launch(root, hosts, words, timeout_s=900)
    assert ended.status == 0, ended.output
    times = json.loads((root / "times").read_text())
    commits_ms, steps_ms = times["commits_ms"], times["steps_ms"]
    return Summary(len(commits_ms), statistics.median(commits_ms), statistics.median(steps_ms))


def summary(_: int) -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        words = ["food5/sample.py", "--out", str(data), "--train", "40", "--test", "10"]
        subprocess.run([sys.executable, *words], cwd=REPO, env=ENVIRONMENT, check=True)
        summaries = {}
        for num_ranks in (1, 2):
            hosts = elastic_jobs.HOSTS[:num_ranks]
            summaries[str(num_ranks)] = run(Path(folder, str(num_ranks)), hosts, data)._asdict()
            print(num_ranks, summaries[str(num_ranks)], flush=True)
        return summaries
