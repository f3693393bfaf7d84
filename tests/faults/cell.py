"""One cell of the fault table: a job that a fault befalls, what came of it, and what was read."""

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

import dist_ft
from dist_ft.errors import UserError
from dist_ft.training import checkpoint
from tests import test_elastic as elastic
from tests.faults.jobs import ADDED, IS_ELASTIC, Ended, Place
from tests.faults.kinds import FAULTS
from tests.images import make_folder

AGAIN = "restart: exit status"  # launch/restart.sh says so
EARLY = ("data", "version")  # before the first step


class Cell(NamedTuple):
    fault: str
    launcher: str
    says: str  # what the user reads
    after_s: float | None  # from the fault to the job's end, or to the next step that it makes
    repeated: int  # steps
    saved: str  # the last checkpoint, once the job has ended
    status: int | None  # None: it did not end
    remedy: str
    result: str  # "the same" as that of a run that nothing happened to, or what differs
    left_s: float | None  # from the job's end to that of its last process; None: that had none


def measure(fault: str, launcher: str, place: Place, alone: Path) -> Cell:
    """Makes it happen in a job of that launcher; alone: a run that nothing happens to."""
    prepare(place)
    ended = place.launch(launcher, meanwhile=lambda told: tend(place, told))
    print(ended.output, file=(place.root / "told").open("w"))
    grief_s = float((place.log / "grief").read_text())
    saved, remedy = saved_in(place.run), ["by itself"] if AGAIN not in ended.output else []
    if AGAIN in ended.output:
        remedy = [f"by restart.sh{', ' + FAULTS[fault].mended if FAULTS[fault].mended else ''}"]
    over_s = ended.at
    if ended.status == 0 and launcher in IS_ELASTIC:
        over_s = next_step(place.log, grief_s)
    elif ended.status is not None:
        remedy = [word for word in (FAULTS[fault].mended, "the same command again") if word]
        mend(place)
        again = place.launch(launcher, meanwhile=lambda told: None)
        if again.status != 0:
            remedy.append(f"which ended with {again.status}")
    return Cell(
        fault,
        launcher,
        said(FAULTS[fault].says, ended).replace(f"{place.root}/", ""),
        round(over_s - grief_s, 1),
        sum(elastic.repeated(place.log)),
        saved,
        ended.status,
        ", ".join(remedy),
        compared(place.root, alone),
        ended.left_s,
    )


def prepare(place: Place) -> None:
    """What a fault needs before the job starts."""
    if place.kind == "disk":
        place.run.mkdir()
        disk = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place.run)]
        subprocess.run(disk, check=True)
    if place.kind == "data":  # one image fewer
        make_folder(place.log / "other", (12, 9, 11, 10, 10), (21, 20, 20, 20, 20))
    if place.kind == "version":
        package = place.log / "other" / "dist_ft"
        shutil.copytree(Path(dist_ft.__file__).parent, package)
        name = package / "__init__.py"
        name.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.9"', name.read_text()))


def tend(place: Place, told: str) -> None:
    """Does to a running job what is not done by itself."""
    grief = place.log / "grief"
    if (place.log / "ready").exists() and not grief.exists():
        since = time.time()
        if place.kind == "link":
            place.network.disconnect("hostb")
        else:
            place.set_hosts(elastic.HOSTS[: 2 if place.kind in ADDED else 1])
        grief.write_text(repr(since))
    if AGAIN in told:
        mend(place)


def mend(place: Place) -> None:
    (place.log / "mended").touch()
    (place.run / "filler").unlink(missing_ok=True)
    if place.network:
        place.network.reconnect("hostb")


def next_step(log: Path, since_s: float) -> float:
    """When the ranks that came together after that moment had made their first step."""
    made = []
    for file in log.glob("*-*"):
        came_s = 0.0
        for told in map(json.loads, file.read_text().splitlines()):
            came_s = told.get("since", came_s)
            if "step" in told and came_s > since_s:
                made.append(told["at"])
    return min(made, default=math.inf)


def saved_in(run: Path) -> str:
    found = checkpoint.latest(run)
    torn = []
    for path in sorted((run / "checkpoints").glob("step-*")):
        try:
            checkpoint.read(path, (checkpoint.NET, checkpoint.TRAINER))
        except UserError:
            torn.append(path.name)
    return (f"step {found.step}" if found else "none") + (f", TORN {torn}" if torn else "")


def said(patterns: tuple[str, ...], ended: Ended) -> str:
    """The first and the last line of what the first pattern that is there finds."""
    for pattern in patterns:
        if found := re.search(pattern, ended.output):
            lines = [line.strip() for line in found.group().splitlines()]
            return " ... ".join(dict.fromkeys((lines[0], lines[-1])))
    return ""


def compared(root: Path, alone: Path) -> str:
    try:
        elastic.assert_same_run(root, alone)
    except (AssertionError, AttributeError, OSError, pytest.fail.Exception) as error:
        return f"DIFFERENT: {' '.join(str(error).split())[:200]}"
    return "the same"
