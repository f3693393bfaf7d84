"""The faults of the table: what befalls whom, and where a user reads of it."""

from __future__ import annotations

from typing import NamedTuple

HERE = ("gloo", "mpi", "elastic", "restart")


class Fault(NamedTuple):
    title: str
    says: tuple[str, ...] = ()  # patterns of what tells of it, the most telling first
    mended: str = ""  # what a person does before the same command is given again
    at: tuple[str, ...] = HERE  # the launchers where it can happen
    why_not: str = ""  # where it cannot


DIED = (
    r"mpirun noticed that process rank 1 .*",
    r"Process 1 exit with status code 137\.",
)
TRACEBACK = r"dist_ft: rank 1 of 2 on \S+: Traceback(?:.*\n)+?"
STANDS = (
    r"dist_ft: rank 1 of 2 on \S+: no progress .*\)",
    r"dist_ft: rank 0 of 2 on \S+: no progress .*\)",
)
ODD = (r"dist_ft: the ranks do not have the same run: .*",)
TAKEN_OUT = (
    r".*\[(?:localhost|127\.0\.0\.1|\w+)\] has been removed from elastic job.*",
    r"dist_ft: the other ranks go on .*",
    r".*has been removed from elastic job.*",
)
NO_LIST = "not possible: the hosts are those of the start"

FAULTS = {
    "kill": Fault("`kill -9` of a rank", DIED),
    "exception": Fault("an exception", (TRACEBACK + r"RuntimeError: .*",)),
    "exit": Fault("`sys.exit(3)`", (TRACEBACK + r"SystemExit: .*",)),
    "terminate": Fault(
        "SIGTERM to one rank",
        (r"dist_ft: rank 1 .* stopped by SIGTERM .*", r"dist_ft: .*stopped by SIGTERM.*"),
    ),
    "stop": Fault("SIGSTOP: a frozen rank", STANDS + DIED),
    "decode": Fault("a decoder that hangs", STANDS),
    "collective": Fault("a rank that enters no collective", STANDS),
    "oom": Fault("out of memory: killed by the kernel (a control group of 64 MB)", DIED),
    "memory": Fault("out of memory: refused (`RLIMIT_AS`)", (TRACEBACK + "MemoryError.*",)),
    "disk": Fault(
        "the disk is full at a checkpoint", (r"dist_ft: .*cannot be written.*",), "space freed"
    ),
    "save": Fault(
        "rank 0 killed as it writes a checkpoint",
        (r"mpirun noticed that process rank 0 .*", r"Process 0 exit with status code 137\."),
    ),
    "data": Fault("one rank has other images", ODD, "the same images"),
    "version": Fault("one rank has another version", ODD, "the same version"),
    "link": Fault(
        "a host's link goes down (`--stall-timeout 60`)",
        (r"Timeout, server hostb not responding", r".*Remote daemon: .* hostb", *STANDS),
        "link up again",
        ("gloo", "mpi", "elastic"),
        "not possible: there is no link",
    ),
    "remove": Fault("a host is taken out of the list", TAKEN_OUT, "", ("elastic",), NO_LIST),
    "add": Fault(
        "a host is added to the list", (r"on 2 x cpu\(0\) from .*",), "", ("elastic",), NO_LIST
    ),
    "slow": Fault(
        "a host is added that takes 20 s to start its process",
        (r"on 2 x cpu\(0\) from .*",),
        "",
        ("elastic",),
        NO_LIST,
    ),
}
