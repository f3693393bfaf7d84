"""The machine that a benchmark ran on, named so that its numbers can be judged."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from pathlib import Path


def described() -> str:
    """One line: processor, cores that may be used, memory, system, Python."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        memory = Path("/proc/meminfo").read_text()
    except OSError:  # not Linux
        cpuinfo = memory = ""
    model = _found(r"^model name\s*:\s*(.+)$", cpuinfo) or platform.machine()
    kilobytes = int(_found(r"^MemTotal:\s*(\d+)", memory) or 0)
    flags = (_found(r"^flags\s*:\s*(.+)$", cpuinfo) or "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return (
        f"{model} ({', '.join(wide) or 'no vector units known'}), {num_cores()} cores,"
        f" {kilobytes / 2**20:.0f} GiB, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}"
    )


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else None


class Neighbours:
    """How much of the machine others have used while the body waited for processes of its own.

    share: of all its cores' time, 0..1; 0 where the system does not tell.
    """

    share = 0.0

    def __enter__(self) -> Neighbours:
        self._begin = _worked_s(), _by_children_s(), time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        end = _worked_s(), _by_children_s(), time.perf_counter()
        worked, by_children, elapsed = (b - a for a, b in zip(self._begin, end))
        self.share = max(0.0, worked - by_children) / elapsed / (os.cpu_count() or 1)


def _worked_s() -> float:
    """Seconds that all cores have worked since the system's start, for this guest or another."""
    try:
        ticks = Path("/proc/stat").read_text().split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, ticks)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _by_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
