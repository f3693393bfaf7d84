"""Many elastic runs, each with a rank killed or a host added at a random moment.

    python -m tests.faults.elastic_runs [--runs 20] [--seed 0]

Every run has to end well as the run of one process that nothing happens to: each image of each step
applied once in what became of it, the same scores, the same parameters on all ranks. Prints a line
for each, and how often a rank died that nobody had killed. The exit status is 1 if any went wrong.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import test_elastic as elastic
from tests.conftest import run_job
from tests.hosts.cluster import wait_until
from tests.images import make_folder

KILLED = "exit with status code 137"
DIED = re.compile(r"exit with status code (?!137)\d+|double free|corrupt|Segmentation|invalid")


def alone(root: Path, data: Path) -> Path:
    words = [str(root / "log"), "--data", str(data), "--out", str(root / "run"), *elastic.RECIPE]
    ended = run_job([elastic.WORKER, *words], 90)
    assert ended.status == 0, ended.output
    return root


def kill(root: Path, data: Path) -> str:
    """Of two ranks either, at any step."""
    slot, step = f"{random.choice(elastic.HOSTS)}:0", random.choice(elastic.STEPS)
    ended = elastic.start(root, elastic.HOSTS, data, "kill", slot, str(step))
    assert KILLED in ended.output, ended.output
    return told(f"{slot} killed at step {step}", root, ended.output)


def add(root: Path, data: Path) -> str:
    """A second host, which the one rank waits for at some step."""
    step = random.choice(elastic.STEPS)
    thread = threading.Thread(target=add_at, args=(root, step))
    thread.start()
    ended = elastic.start(root, elastic.HOSTS[:1], data, "await", str(step))
    thread.join()
    return told(f"added by step {step}", root, ended.output)


def add_at(root: Path, step: int) -> None:
    log = root / "log"
    wait_until(lambda: log.exists() and len(elastic.history(log)) >= min(step, 1), 60)
    (root / "hosts").write_text("".join(f"{host}:1\n" for host in elastic.HOSTS))


def told(what: str, root: Path, output: str) -> str:
    sizes = [world.size for world in elastic.worlds(root / "log")]
    again = elastic.repeated(root / "log")
    died = DIED.findall(output)
    return f"{what:32} ranks {sizes}, steps made again {again}" + (f", DIED {died}" if died else "")


class Summary(NamedTuple):
    runs: int  # of each kind
    wrong: int
    died: int  # of them, with a rank dead that nobody had killed


def run(runs: int, seed: int = 0) -> Summary:
    random.seed(seed)
    wrong = died = 0
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder, "data"), (13, 9, 11, 10, 10), (21, 20, 20, 20, 20))
        undisturbed = alone(Path(folder, "alone"), data)
        for number in range(2 * runs):
            happen = (kill, add)[number % 2]
            root = Path(folder, str(number))
            root.mkdir()
            try:
                line = happen(root, data)
                elastic.assert_same_run(root, undisturbed)
            except (AssertionError, pytest.fail.Exception) as error:
                wrong, line = wrong + 1, f"WRONG: {error}"
            died += "DIED" in line
            print(f"{number + 1:3} {line}", flush=True)
    return Summary(runs, wrong, died)


def summary(runs: int) -> dict[str, int]:
    return run(runs)._asdict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(1 if run(given.runs, given.seed).wrong else 0)


if __name__ == "__main__":
    main()
