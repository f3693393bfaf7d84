"""The machine that a benchmark ran on, named so that its numbers can be judged."""

from __future__ import annotations

import os
import platform
import re
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
