"""The fault table as Markdown, of what was measured."""

from __future__ import annotations

import os
import platform
import re
import socket
import statistics
from typing import Any

import mxnet as mx

from dist_ft import __version__
from dist_ft.distributed import horovod_world
from dist_ft.distributed.threads import usable_cores
from tests.faults.jobs import SAVE_EVERY, STALL_TIMEOUT_S
from tests.faults.kinds import FAULTS

SECTIONS = {
    "gloo": "`launch/hosts.sh`: horovodrun with Gloo",
    "mpi": "`launch/hosts.sh --mpi`: horovodrun with MPI",
    "elastic": "`launch/elastic.sh`: two hosts",
    "restart": "`launch/elastic.sh`: one host, of two processes",
}
HEAD = "| fault | the user reads | s | steps again | last saved | status | goes on | result |"
STAYS_S = 20.0  # from there on it is told
LONGEST = 170  # characters of a line that is shown

INTRODUCTION = """# What goes wrong, and what then

Written by `python -m tests.faults.measure`, which makes each fault happen in real jobs: two ranks,
rank 1 at step 18 of 42, a checkpoint every {save} steps, `--stall-timeout {stall}` (the default is
300: where a rank hangs, that much later).

{machine}.

- *s*: from the fault to the end of the job, or, where it goes on by itself, to the next step made.
- *the user reads*: the line that tells of it, shortened.
- *steps again*: made before the fault, and made again after it.
- *last saved*: the last whole checkpoint, once the job had ended.
- *goes on*: what that took.
- *result*: compared with a run that nothing happened to: the images of each step, the scores as
  integers, the final parameters to 1e-5.
"""


def of(kept: dict[str, Any]) -> str:
    """kept: a Cell for each "FAULT LAUNCHER", as a dict, and the summaries."""
    told = {"save": SAVE_EVERY, "stall": STALL_TIMEOUT_S, "machine": machine()}
    parts = [INTRODUCTION.format(**told)]
    for launcher, title in SECTIONS.items():
        rows = [row(fault, launcher, kept.get(f"{fault} {launcher}")) for fault in FAULTS]
        parts.append("\n".join([f"## {title}", "", HEAD, "|" + " --- |" * 8, *rows, ""]))
    more = {"saves": saves, "random": at_random, "deaths": deaths, "commits": commits}
    parts += [told(kept[what]) for what, told in more.items() if what in kept]
    return "\n".join(parts)


def machine() -> str:
    versions = (
        f"dist_ft {__version__}, MXNet {mx.__version__}, Horovod {horovod_world.horovod_build()}"
    )
    place = f"{usable_cores()} cores ({platform.machine()}, {platform.system()})"
    busy = f"also busy with other work (load average {os.getloadavg()[2]:.0f})"
    return f"Measured on {place}, {busy}, with Python {platform.python_version()},\n{versions}"


def row(fault: str, launcher: str, cell: dict[str, Any] | None) -> str:
    title = FAULTS[fault].title
    if cell is None:
        return f"| {title} | {FAULTS[fault].why_not} | | | | | | |"
    status = "hangs" if cell["status"] is None else cell["status"]
    remedy = cell["remedy"]
    if cell["left_s"] is not None and cell["left_s"] > STAYS_S:
        remedy += f" (the job's last process ended {cell['left_s']:.0f} s after it)"
    words = [
        title,
        f"`{shortened(cell['says'])}`",
        cell["after_s"],
        cell["repeated"],
        cell["saved"],
        status,
        remedy,
        cell["result"],
    ]
    return "| " + " | ".join(str(word).replace("|", "\\|") for word in words) + " |"


def shortened(line: str) -> str:
    line = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


def saves(found: dict[str, int]) -> str:
    return (
        "## Checkpoints that are cut\n\n"
        f"A process that saves one after another, killed {found['kills']} times at random moments:"
        f" {found['cut']} times one was half written,\nand {found['kills'] - found['bad']} times"
        " the last finished one was whole and found. A kill does not take away what the disk has"
        " not\nwritten yet, as a power cut does: a checkpoint is given its name when its bytes are"
        " on disk (fsync).\n"
    )


def at_random(found: dict[str, int]) -> str:
    runs, right = found["runs"], 2 * found["runs"] - found["wrong"]
    return (
        "## At random moments\n\n"
        f"`python -m tests.faults.elastic_runs --runs {runs}`: {runs} elastic runs in which one of"
        f" two ranks is killed at a\nrandom step, and {runs} that a host is added to: {right} of"
        f" {2 * runs} ended as the run that nothing\nhappened to; in {found['died']} of them a rank"
        " died that nobody had killed.\n"
    )


def deaths(found: dict[str, Any]) -> str:
    lines = [
        "## Ranks that outlive another\n",
        "Three ranks on three names of this machine, one of which is killed at a random step: in"
        " how many runs a\nsurvivor died of itself, with gradients summed as `dist_ft/elastic.py`"
        " does, all as one, and as Horovod's trainer\ndoes, each on its own. Now and then Gloo does"
        " not tell a survivor that a connection has ended: it waits for Gloo's\ntimeout then, 60 s"
        " in these runs (`--gloo-timeout-seconds`, 30 by itself).\n",
        "| | runs | a survivor died | how | not finished | s to the next step, median | most |",
        "|" + " --- |" * 7,
    ]
    titles = {"one": "all as one", "each": "each on its own"}
    for name, it in found.items():
        how = ", ".join(dict.fromkeys(it["how"])) or "-"
        took_s = statistics.median(it["after_s"]), max(it["after_s"])
        lines.append(
            f"| {titles[name]} | {it['runs']} | {it['died']} | {how} | {it['unfinished']}"
            f" | {took_s[0]:.1f} | {took_s[1]:.1f} |".replace("inf", "no next step")
        )
    return "\n".join([*lines, ""])


def commits(found: dict[str, Any]) -> str:
    lines = [
        "## What a commit costs\n",
        "ResNet34_v2 (85 MB of parameters) at 64 px, 200 images a step, `--commit-every 10`, a core"
        " for each rank; medians.\n",
        "| ranks | a commit, ms | a step, ms | a commit is, of a step | of ten steps |",
        "| --- | --- | --- | --- | --- |",
    ]
    for ranks, it in found.items():
        share = it["commit_ms"] / it["step_ms"]
        lines.append(
            f"| {ranks} | {it['commit_ms']:.0f} | {it['step_ms']:.0f} | {share:.1%}"
            f" | {share / 10:.2%} |"
        )
    return "\n".join([*lines, ""])
