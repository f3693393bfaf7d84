"""How often those that outlive a killed rank die too, of three on three names of this machine.

With all gradients as one sum, as dist_ft/elastic.py has it, and each on its own.
"""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import test_elastic as elastic
from tests.faults.cell import next_step
from tests.images import make_folder

# A process that is asked to end ends with 143. That Horovod ends a rank itself, since its host was
# taken out, is told by a line of its own.
DEATH = re.compile(r"Process \S+ exit with status code (?!137|143)(\d+)")
REMOVED = "has been removed from elastic job"


class Summary(NamedTuple):
    runs: int
    died: int  # runs in which a survivor died of itself
    how: list[str]  # what was said of it, or exit statuses
    unfinished: int  # runs that did not come to their end
    after_s: list[float]  # of each run, from the kill to the next step


def run(runs: int, is_hasty: bool, seed: int = 0) -> Summary:
    """Kills one of three at a random step, in as many runs."""
    random.seed(seed)
    hosts, how, died, unfinished, after_s = elastic.local_names()[:3], [], 0, 0, []
    words = ["hasty"] if is_hasty else []
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder, "data"), (13, 9, 11, 10, 10), (21, 20, 20, 20, 20))
        for number in range(runs):
            root = Path(folder, str(number))
            root.mkdir()
            slot, step = f"{random.choice(hosts)}:0", random.choice(elastic.STEPS)
            output = told(root, hosts, data, "kill", slot, str(step), *words)
            unfinished += "best test acc" not in output
            found = DEATH.findall(output) if REMOVED not in output else []
            found += re.findall(r"double free or corruption|Segmentation fault|corrupted", output)
            if "best test acc" not in output:
                print(output.split("\nProcess ")[0], flush=True)
            died += bool(found)
            how += sorted(set(found))
            log = root / "log"
            killed_s = grief_in(log)
            after_s.append(round(next_step(log, killed_s) - killed_s, 1))
            hasty = ", hasty" if is_hasty else ""
            print(
                f"{number + 1:3} {slot} at step {step}{hasty}: {found}, {after_s[-1]} s", flush=True
            )
    return Summary(runs, died, how, unfinished, after_s)


def grief_in(log: Path) -> float:
    return next(told["grief"] for told in elastic.records(log) if "grief" in told)


def told(root: Path, hosts: list[str], data: Path, *words: str) -> str:
    try:
        return elastic.start(root, hosts, data, *words).output
    except (AssertionError, pytest.fail.Exception) as error:
        return str(error)


def summary(runs: int) -> dict[str, Summary]:
    return {"one": run(runs, False)._asdict(), "each": run(runs, True)._asdict()}
