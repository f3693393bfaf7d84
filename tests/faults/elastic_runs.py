"""Many elastic runs, each with a rank killed or a host added at a random moment.

    python -m tests.faults.elastic_runs [--runs 20] [--seed 0]

Every run must equal an undisturbed run of one process: the same images in every step, the same
scores and parameters. Prints a line for each run. The exit status is 1 if any differs.
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

from tests import elastic_jobs
from tests.elastic_jobs import HOSTS, STEPS, train_elastic
from tests.hosts.cluster import wait_until
from tests.images import make_folder

KILLED = "exit with status code 137"
DIED = re.compile(r"exit with status code (?!137)\d+|double free|corrupt|Segmentation|invalid")


def kill(root: Path, data: Path) -> str:
    """Kills one of two ranks at a random step."""
    slot, step = f"{random.choice(HOSTS)}:0", random.choice(STEPS)
    ended = train_elastic(root, HOSTS, data, "--fault", "kill", slot, str(step))
    assert KILLED in ended.output, ended.output
    return report(f"{slot} killed at step {step}", root, ended.output)


def add(root: Path, data: Path) -> str:
    """Adds a second host, which the single rank waits for at a random step."""
    step = random.choice(STEPS)
    thread = threading.Thread(target=add_host, args=(root, step))
    thread.start()
    ended = train_elastic(root, HOSTS[:1], data, "--wait-at", str(step))
    thread.join()
    return report(f"added by step {step}", root, ended.output)


def add_host(root: Path, step: int) -> None:
    log = root / "log"
    num_steps = min(step, 1)
    wait_until(lambda: log.exists() and len(elastic_jobs.applied_images(log)) >= num_steps, 60)
    elastic_jobs.write_hosts(root / "hosts", HOSTS)


def report(event: str, root: Path, output: str) -> str:
    sizes = [group.size for group in elastic_jobs.rank_groups(root / "log")]
    repeated = elastic_jobs.repeated_steps(root / "log")
    died = DIED.findall(output)
    line = f"{event:32} ranks {sizes}, repeated steps {repeated}"
    return line + (f", DIED {died}" if died else "")


class Summary(NamedTuple):
    runs: int  # of each kind
    wrong: int
    died: int  # runs in which another rank died than the one killed


def run(runs: int, seed: int = 0) -> Summary:
    random.seed(seed)
    wrong = died = 0
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder, "data"), (13, 9, 11, 10, 10), (21, 20, 20, 20, 20))
        undisturbed = elastic_jobs.train_undisturbed(Path(folder, "undisturbed"), data)
        for number in range(2 * runs):
            root = Path(folder, str(number))
            root.mkdir()
            try:
                line = kill(root, data) if number % 2 == 0 else add(root, data)
                elastic_jobs.assert_same_run(root, undisturbed)
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
    args = parser.parse_args()
    sys.exit(1 if run(args.runs, args.seed).wrong else 0)


if __name__ == "__main__":
    main()
