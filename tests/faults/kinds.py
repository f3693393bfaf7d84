"""The faults of the table: where each can happen, and which line of the output reports it."""

from __future__ import annotations

from typing import NamedTuple

ALL_LAUNCHERS = ("gloo", "mpi", "elastic", "restart")


class Fault(NamedTuple):
    title: str
    messages: tuple[str, ...] = ()  # patterns of lines that report it, the best first
    repair: str = ""  # what a person does before running the same command again
    launchers: tuple[str, ...] = ALL_LAUNCHERS  # under which it can happen
    why_not: str = ""  # under the others


DIED = (
    r"mpirun noticed that process rank 1 .*",
    r"Process 1 exit with status code 137\.",
)
TRACEBACK = r"dist_ft: rank 1 of 2 on \S+: Traceback(?:.*\n)+?"
NO_MEMORY = TRACEBACK + "MemoryError.*"
CANNOT_WRITE = (r"dist_ft: .*cannot (?:be written|write|save).*",)
STALLED = (
    r"dist_ft: rank 1 of 2 on \S+: no progress .*\)",
    r"dist_ft: rank 0 of 2 on \S+: no progress .*\)",
)
DIFFERS = (r"dist_ft: .*rank 1 of 2 on \S+ differs from rank 0.*",)
REMOVED = (
    r".*\[(?:localhost|127\.0\.0\.1|\w+)\] has been removed from elastic job.*",
    r"dist_ft: the other ranks continue .*",
    r".*has been removed from elastic job.*",
)
ADDED = (r"continuing on 2 x cpu\(0\) from .*",)
FIXED_HOSTS = "not possible: the hosts are fixed at the start"

FAULTS = {
    "kill": Fault("`kill -9` of a rank", DIED),
    "exception": Fault("an exception", (TRACEBACK + r"RuntimeError: .*",)),
    "exit": Fault("`sys.exit(3)`", (TRACEBACK + r"SystemExit: .*",)),
    "terminate": Fault(
        "SIGTERM to one rank",
        (r"dist_ft: rank 1 .* stopped by SIGTERM .*", r"dist_ft: .*stopped by SIGTERM.*"),
    ),
    "stop": Fault("SIGSTOP: a frozen rank", STALLED + DIED),
    "decode": Fault("a hanging image decoder", STALLED),
    "collective": Fault("a rank that hangs before a collective call", STALLED),
    "oom": Fault("out of memory: killed by the kernel (control group of 64 MB)", DIED),
    "memory": Fault("out of memory: allocation refused (`RLIMIT_AS`)", (NO_MEMORY,)),
    "disk": Fault("the disk is full at a checkpoint", CANNOT_WRITE, "freeing space"),
    "save": Fault(
        "rank 0 is killed while it writes a checkpoint",
        (r"mpirun noticed that process rank 0 .*", r"Process 0 exit with status code 137\."),
    ),
    "data": Fault("one rank has different images", DIFFERS, "correcting the images"),
    "version": Fault("one rank has a different version", DIFFERS, "correcting the version"),
    "link": Fault(
        "a host's network link goes down (`--stall-timeout 60`)",
        (r"Timeout, server hostb not responding", r".*Remote daemon: .* hostb", *STALLED),
        "restoring the link",
        ("gloo", "mpi", "elastic"),
        "not possible: there is no link",
    ),
    "remove": Fault("a host is removed from the list", REMOVED, "", ("elastic",), FIXED_HOSTS),
    "add": Fault("a host is added to the list", ADDED, "", ("elastic",), FIXED_HOSTS),
    "slow": Fault(
        "a host is added whose process takes 20 s to start", ADDED, "", ("elastic",), FIXED_HOSTS
    ),
}
