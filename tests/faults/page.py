"""Renders the measured faults as Markdown: docs/faults.md."""

from __future__ import annotations

import os
import platform
import re
import socket
import statistics
from typing import Any

import mxnet as mx

from dist_ft import __version__
from dist_ft.distributed import horovod_world, threads
from tests.faults.jobs import SAVE_EVERY, STALL_TIMEOUT_S
from tests.faults.kinds import FAULTS

SECTIONS = {
    "gloo": "`launch/hosts.sh`: horovodrun with Gloo",
    "mpi": "`launch/hosts.sh --mpi`: horovodrun with MPI",
    "elastic": "`launch/elastic.sh`: two hosts",
    "restart": "`launch/elastic.sh`: one host with two processes",
}
HEAD = (
    "| fault | message | seconds | repeated steps | last checkpoint | exit status | resumed by"
    " | result |"
)
REPORTED_LEFT_S = 20.0  # a job whose processes outlive it for longer is noted
MAX_MESSAGE = 170  # characters

INTRODUCTION = """# What happens when something fails

## Signals

A run that receives one of these signals, on any rank, saves a checkpoint before its next step and
ends; the same command resumes it. In an elastic run only the ranks that received it end.

| signal | sent by | exit status |
| --- | --- | --- |
| SIGTERM | `kill`, schedulers, `docker stop` | 143 |
| SIGINT | Ctrl-C; a second one ends the run at once | 130 |
| SIGHUP | a closed terminal or ssh connection | 129 |
| SIGUSR1 | Slurm (`--signal`) before the time limit | 75, for "try again" |

Under `nohup`, a run starts with SIGHUP ignored and leaves it ignored: when the terminal is closed,
the run continues. A crash (SIGSEGV, SIGBUS, SIGFPE) prints the stack of every thread, and the exit
status reports the signal.

## How the faults were measured

Written by `python -m tests.faults.measure`, which injects every fault into real jobs: two ranks,
rank 1 before step 18 of 42, a checkpoint every {save_every} steps, `--stall-timeout
{stall_timeout}`. With its default of 300 s, a rank that hangs is detected that much later.

{machine}.

- *message*: the line of the output that reports the fault, shortened.
- *seconds*: from the fault to the end of the job, or to the next step if the run resumes by itself.
- *repeated steps*: steps made before the fault and again after it.
- *last checkpoint*: the last complete one when the job had ended.
- *resumed by*: what resumed the run.
- *result*: compared with an undisturbed run: the images of each step, the counts of the scores, and
  the final parameters.
"""


def render(results: dict[str, Any], machine: str) -> str:
    """results: a Cell, as a dict, for each "FAULT LAUNCHER", and the summaries by name."""
    introduction = INTRODUCTION.format(
        save_every=SAVE_EVERY, stall_timeout=STALL_TIMEOUT_S, machine=machine
    )
    parts = [introduction]
    for launcher, title in SECTIONS.items():
        rows = [row(fault, results.get(f"{fault} {launcher}")) for fault in FAULTS]
        parts.append("\n".join([f"## {title}", "", HEAD, "|" + " --- |" * 8, *rows, ""]))
    sections = {"saves": saves, "random": at_random, "deaths": deaths, "commits": commits}
    parts += [section(results[name]) for name, section in sections.items() if name in results]
    return "\n".join(parts)


def describe_machine() -> str:
    horovod = horovod_world.horovod_build()
    cores = f"{threads.usable_cores()} cores ({platform.machine()}, {platform.system()})"
    load = f"other work at the same time (load average {os.getloadavg()[2]:.0f})"
    return (
        f"Measured on {cores}, with {load}, Python\n{platform.python_version()}, dist_ft"
        f" {__version__}, MXNet {mx.__version__} and Horovod {horovod}"
    )


def row(fault: str, cell: dict[str, Any] | None) -> str:
    title = FAULTS[fault].title
    if cell is None:
        return f"| {title} | {FAULTS[fault].why_not} | | | | | | |"
    resumed_by = cell["resumed_by"]
    if cell["left_s"] is not None and cell["left_s"] > REPORTED_LEFT_S:
        resumed_by += f" (the job's last process ended {cell['left_s']:.0f} s after it)"
    values = [
        title,
        f"`{shorten(cell['message'])}`",
        cell["after_s"],
        cell["num_repeated"],
        cell["saved"],
        "hangs" if cell["status"] is None else cell["status"],
        resumed_by,
        cell["result"],
    ]
    return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"


def shorten(line: str) -> str:
    line = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", line)
    return line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 4]} ..."


def saves(found: dict[str, int]) -> str:
    return (
        "## Checkpoints of killed processes\n\n"
        f"A process that saves one checkpoint after another was killed {found['kills']} times at"
        f" random moments.\n{found['cut']} times an incomplete checkpoint was left behind;"
        f" {found['kills'] - found['bad']} times the last completed one was found. Unlike a\npower"
        " failure, a kill does not lose data that is still in the kernel's buffers; against power"
        " failures, a\ncheckpoint gets its final name only after its data is on disk (fsync).\n"
    )


def at_random(found: dict[str, int]) -> str:
    runs, right = found["runs"], 2 * found["runs"] - found["wrong"]
    return (
        "## Faults at random moments\n\n"
        f"`python -m tests.faults.elastic_runs --runs {runs}`: {runs} elastic runs in which one of"
        f" two ranks is killed at a\nrandom step, and {runs} in which a host is added: {right} of"
        f" {2 * runs} equalled an undisturbed run. In {found['died']} of\nthem a rank died that was"
        " not to be killed.\n"
    )


def deaths(found: dict[str, Any]) -> str:
    lines = [
        "## Survivors of a killed rank\n",
        "Three ranks on three names of this machine, one of which is killed at a random step. A"
        " survivor may crash while many\nreductions fail at once. `ElasticWorld` therefore reduces"
        " all gradients in one operation; Horovod's trainer uses one\nper gradient. Occasionally"
        " Gloo does not notify a survivor that a connection has ended, and it waits for Gloo's\n"
        "timeout: 60 s in these runs (`--gloo-timeout-seconds`, default 30).\n",
        "| gradients | runs | a survivor died | how | unfinished | seconds to the next step, median"
        " | maximum |",
        "|" + " --- |" * 7,
    ]
    titles = {"one": "one operation", "each": "one per gradient"}
    for name, values in found.items():
        how = ", ".join(dict.fromkeys(values["how"])) or "-"
        median_s, max_s = statistics.median(values["after_s"]), max(values["after_s"])
        lines.append(
            f"| {titles[name]} | {values['runs']} | {values['died']} | {how}"
            f" | {values['unfinished']} | {median_s:.1f} | {max_s:.1f} |".replace(
                "inf", "no next step"
            )
        )
    return "\n".join([*lines, ""])


def commits(found: dict[str, Any]) -> str:
    lines = [
        "## Cost of a commit\n",
        "ResNet34_v2 (85 MB of parameters) at 64 px, 200 images per step, `--commit-every 10`, one"
        " core per rank; medians.\n",
        "| ranks | commit, ms | step, ms | commit / step | commit / ten steps |",
        "|" + " --- |" * 5,
    ]
    for num_ranks, values in found.items():
        share = values["commit_ms"] / values["step_ms"]
        lines.append(
            f"| {num_ranks} | {values['commit_ms']:.0f} | {values['step_ms']:.0f} | {share:.1%}"
            f" | {share / 10:.2%} |"
        )
    return "\n".join([*lines, ""])
