"""How often the survivors of a killed rank die, too: three ranks on three names of this machine.

With all gradients in one allreduce, as ElasticWorld has it, and with one for each gradient.
"""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import elastic_jobs
from tests.faults.cell import next_step
from tests.images import make_folder

# A process that is asked to end exits with 143. That Horovod itself ends a rank, since its host was
# removed, is reported by a line of its own.
DEATH = re.compile(r"Process \S+ exit with status code (?!137|143)(\d+)")
CRASH = re.compile(r"double free or corruption|Segmentation fault|corrupted")
REMOVED = "has been removed from elastic job"
FINISHED = "best test acc"  # of the last message of a run


class Summary(NamedTuple):
    runs: int
    died: int  # runs in which a survivor died
    how: list[str]  # messages or exit statuses
    unfinished: int  # runs that did not finish
    after_s: list[float]  # of each run, from the kill to the next step


def run(runs: int, ungrouped: bool, seed: int = 0) -> Summary:
    """Kills one of three ranks at a random step, in as many runs."""
    random.seed(seed)
    hosts = elastic_jobs.local_names()[:3]
    how: list[str] = []
    after_s: list[float] = []
    num_died = num_unfinished = 0
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder, "data"), (13, 9, 11, 10, 10), (21, 20, 20, 20, 20))
        for number in range(runs):
            root = Path(folder, str(number))
            root.mkdir()
            slot, step = f"{random.choice(hosts)}:0", random.choice(elastic_jobs.STEPS)
            flags = ["--fault", "kill", slot, str(step)]
            output = run_to_end(root, hosts, data, *flags, *(["--ungrouped"] if ungrouped else []))
            deaths = DEATH.findall(output) if REMOVED not in output else []
            deaths += CRASH.findall(output)
            if FINISHED not in output:
                num_unfinished += 1
                print(output.split("\nProcess ")[0], flush=True)
            num_died += bool(deaths)
            how += sorted(set(deaths))
            killed_at = fault_time(root / "log")
            after_s.append(round(next_step(root / "log", killed_at) - killed_at, 1))
            print(f"{number + 1:3} {slot} at step {step}: {deaths}, {after_s[-1]} s", flush=True)
    return Summary(runs, num_died, how, num_unfinished, after_s)


def fault_time(log: Path) -> float:
    return next(rec["fault_at"] for rec in elastic_jobs.records(log) if "fault_at" in rec)


def run_to_end(root: Path, hosts: list[str], data: Path, *flags: str) -> str:
    """The output, also of a run that fails."""
    try:
        return elastic_jobs.train_elastic(root, hosts, data, *flags).output
    except (AssertionError, pytest.fail.Exception) as error:
        return str(error)


def summary(runs: int) -> dict[str, dict]:
    return {"one": run(runs, False)._asdict(), "each": run(runs, True)._asdict()}
