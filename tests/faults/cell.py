"""One row of the fault table: runs a job, injects the fault, and determines the outcome."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from dist_ft.errors import UserError
from dist_ft.training import checkpoint
from tests import elastic_jobs
from tests.faults.jobs import ADDING_HOSTS, ELASTIC_LAUNCHERS, FaultyJob
from tests.faults.kinds import FAULTS
from tests.images import make_folder

RESTARTED = "restart: exit status"  # printed by launch/restart.sh
BEFORE_STEP_0 = ("data", "version")
IDENTICAL = "identical"


class Cell(NamedTuple):
    fault: str
    launcher: str
    message: str  # the line of the output that reports the fault
    after_s: float | None  # from the fault to the job's end, or to the next step
    num_repeated: int  # steps
    saved: str  # the last checkpoint when the job had ended
    status: int | None  # exit status; None: the job did not end
    resumed_by: str
    result: str  # "identical" to that of an undisturbed run, or the difference
    left_s: float | None  # until the job's last process had ended; None: it had to be killed


def measure(fault: str, launcher: str, job: FaultyJob, undisturbed: Path) -> Cell:
    """Runs the job with the fault; undisturbed: the folder of a run without one."""
    prepare(job)
    ended = job.run(launcher, meanwhile=lambda output: attend(job, output))
    print(ended.output, file=(job.root / "output").open("w"))
    fault_at = float((job.log / "fault").read_text())
    saved, repair = last_checkpoint(job.out), FAULTS[fault].repair
    over_at = ended.at
    resumed_by = "the run itself"
    if RESTARTED in ended.output:
        resumed_by = after("restart.sh", repair)
    if ended.status == 0 and launcher in ELASTIC_LAUNCHERS:
        over_at = next_step(job.log, fault_at)
    elif ended.status is not None:
        resumed_by = after("the same command", repair)
        repair_cause(job)
        again = job.run(launcher, meanwhile=lambda output: None)
        if again.status != 0:
            resumed_by += f", which ended with {again.status}"
    return Cell(
        fault,
        launcher,
        find_message(FAULTS[fault].messages, ended.output).replace(f"{job.root}/", ""),
        round(over_at - fault_at, 1),
        sum(elastic_jobs.repeated_steps(job.log)),
        saved,
        ended.status,
        resumed_by,
        compare(job.root, undisturbed),
        ended.left_s,
    )


def after(command: str, repair: str) -> str:
    return f"{command}, after {repair}" if repair else command


def prepare(job: FaultyJob) -> None:
    """Creates what a fault needs before the job starts."""
    if job.fault == "disk":
        job.out.mkdir()
        disk = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(job.out)]
        subprocess.run(disk, check=True)
    if job.fault == "data":  # one image fewer
        make_folder(job.log / "other", (12, 9, 11, 10, 10), (21, 20, 20, 20, 20))
    if job.fault == "version":
        package = job.log / "other" / "dist_ft"
        shutil.copytree(elastic_jobs.REPO / "dist_ft", package)
        init = package / "__init__.py"
        init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.9"', init.read_text()))


def attend(job: FaultyJob, output: str) -> None:
    """Injects faults from outside, and repairs their cause when the job restarts."""
    happened = job.log / "fault"
    if (job.log / "ready").exists() and not happened.exists():
        since = time.time()
        if job.fault == "link":
            job.network.cut("hostb")
        else:
            job.set_hosts(elastic_jobs.HOSTS[: 2 if job.fault in ADDING_HOSTS else 1])
        happened.write_text(repr(since))
    if RESTARTED in output:
        repair_cause(job)


def repair_cause(job: FaultyJob) -> None:
    (job.log / "repaired").touch()
    (job.out / "filler").unlink(missing_ok=True)
    if job.network:
        job.network.mend("hostb")


def next_step(log: Path, since: float) -> float:
    """When the ranks that connected after that time had made their first step."""
    made_at = []
    for file in log.glob("*-*"):
        connected_at = 0.0
        for record in map(json.loads, file.read_text().splitlines()):
            connected_at = record.get("connected_at", connected_at)
            if "step" in record and connected_at > since:
                made_at.append(record["at"])
    return min(made_at, default=math.inf)


def last_checkpoint(out: Path) -> str:
    saved, torn = checkpoint.latest(out), []
    for path in sorted((out / "checkpoints").glob("step-*")):
        try:
            checkpoint.read(path, (checkpoint.NET, checkpoint.TRAINER))
        except UserError:
            torn.append(path.name)
    return (f"step {saved.step}" if saved else "none") + (f", TORN {torn}" if torn else "")


def find_message(patterns: tuple[str, ...], output: str) -> str:
    """The first and the last line of what the first matching pattern finds."""
    for pattern in patterns:
        if found := re.search(pattern, output):
            lines = [line.strip() for line in found.group().splitlines()]
            return " ... ".join(dict.fromkeys((lines[0], lines[-1])))
    return ""


def compare(root: Path, undisturbed: Path) -> str:
    try:
        elastic_jobs.assert_same_run(root, undisturbed)
    except (AssertionError, AttributeError, OSError, pytest.fail.Exception) as error:
        return f"DIFFERENT: {' '.join(str(error).split())[:200]}"
    return IDENTICAL
