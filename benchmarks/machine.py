"""Describes the machine that a benchmark runs on, and what else it does meanwhile."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import psutil

SIMD = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe() -> str:
    """One line: processor, cores that may be used, memory, system, Python."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    simd = [name for name in SIMD if name in cpuinfo.split()]
    return (
        f"{model[1] if model else platform.machine()} ({', '.join(simd) or 'unknown SIMD'}),"
        f" {num_cores()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB,"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


class OtherLoad:
    """Measures what processes other than our children use of the machine during a `with` block.

    share: of the time of all cores, 0..1.
    """

    share = 0.0

    def __enter__(self) -> OtherLoad:
        self._start = psutil.cpu_times(), os.times()
        return self

    def __exit__(self, *_: object) -> None:
        (cpu, own), (cpu_end, own_end) = self._start, (psutil.cpu_times(), os.times())
        idle_s = cpu_end.idle + cpu_end.iowait - cpu.idle - cpu.iowait
        elapsed_s = (own_end.elapsed - own.elapsed) * (os.cpu_count() or 1)
        children_s = (
            own_end.children_user
            + own_end.children_system
            - own.children_user
            - own.children_system
        )
        self.share = max(0.0, elapsed_s - idle_s - children_s) / elapsed_s
