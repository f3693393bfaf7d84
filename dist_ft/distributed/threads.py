"""This process's share of the host's cores: CPU affinity, OMP_NUM_THREADS, bfloat16 support.

Imports the standard library only: MXNet reads OMP_NUM_THREADS when it is imported, so commands call
`bind_cores` first.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Mapping, MutableMapping, Sequence

from dist_ft.distributed import launcher

# Variables by which users bind OpenMP threads to cores themselves.
BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
AVX512_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}  # those that oneDNN requires

_cores_before_binding: frozenset[int] | None = None


def bind_cores(environ: MutableMapping[str, str] = os.environ) -> int:
    """Binds this process to its share of the host's cores and sets its number of threads.

    Without binding, two ranks may share one core while another core idles. Does nothing if a
    launcher or the user has bound the process already, or if there are more ranks than cores. May
    be called repeatedly. Returns the number of threads.
    """
    global _cores_before_binding
    num_threads = set_num_threads(environ)
    local_rank, local_size = launcher.local_rank(environ), launcher.local_size(environ)
    cores = os.sched_getaffinity(0)
    if local_rank is None or not 1 < local_size <= len(cores):
        return num_threads
    if not _cores_before_binding and not _is_bound(environ, cores):
        _cores_before_binding = frozenset(cores)
        ordered = sorted(cores, key=_topology)
        os.sched_setaffinity(0, share_of(ordered, local_rank, local_size))
    return num_threads


def set_num_threads(environ: MutableMapping[str, str] = os.environ) -> int:
    """Sets OMP_NUM_THREADS to this rank's share of the host's cores, unless the user has set it.

    By default MXNet uses half of the host's cores in every rank. Returns the number of threads.
    """
    value = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not value.isdecimal() or int(value) == 0:  # unset, empty or invalid
        value = str(max(1, usable_cores() // launcher.local_size(environ)))
        environ["OMP_NUM_THREADS"] = value
    return int(value)


def usable_cores() -> int:
    """The cores that this host's ranks may use together: CPU affinity and container quota.

    Where a launcher has bound each rank to its own cores (mpirun, srun), the affinity is multiplied
    by the number of local ranks. horovodrun binds nothing: there a reduced affinity is a
    container's.
    """
    num_cores = len(_cores_before_binding or os.sched_getaffinity(0))
    if "HOROVOD_LOCAL_SIZE" not in os.environ:
        local_size = launcher.local_size()
        if num_cores * local_size <= (os.cpu_count() or 1):
            num_cores *= local_size
    return max(1, min(num_cores, _container_quota() or num_cores))


def share_of(cores: Sequence[int], local_rank: int, local_size: int) -> Sequence[int]:
    """A rank's cores: a contiguous slice; the slices of all ranks cover the cores exactly once."""
    num_cores = len(cores)
    begin, end = local_rank * num_cores // local_size, (local_rank + 1) * num_cores // local_size
    return cores[begin:end]


def has_bfloat16(cpuinfo: str | None = None) -> bool:
    """True if a processor multiplies bfloat16 numbers (AVX512-BF16 or AMX).

    cpuinfo: the text of /proc/cpuinfo. Default: that of this host.
    """
    return not BFLOAT16_FLAGS.isdisjoint(_processor_flags(cpuinfo))


def emulates_bfloat16(cpuinfo: str | None = None) -> bool:
    """True if oneDNN computes in bfloat16 by converting to float32 and back, which is slower than
    float32. It needs AVX512 for that, and computes nothing in bfloat16 without.

    cpuinfo: as for `has_bfloat16`.
    """
    return not has_bfloat16(cpuinfo) and _processor_flags(cpuinfo) >= AVX512_FLAGS


def _processor_flags(cpuinfo: str | None) -> set[str]:
    """The instruction sets of the first processor; empty if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text() if cpuinfo is None else cpuinfo
    except OSError:
        return set()
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(flags[1].split()) if flags else set()


def _is_bound(environ: Mapping[str, str], cores: set[int]) -> bool:
    """True if the user or a launcher other than horovodrun has bound this process to cores."""
    if any(environ.get(name) for name in BINDING):
        return True
    return "HOROVOD_LOCAL_SIZE" not in environ and len(cores) < (os.cpu_count() or 1)


def _topology(core: int) -> tuple[int, ...]:
    """Sort key: by socket, then by physical core, so that hyper-threads are neighbors."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package = int((topology / "physical_package_id").read_text())
        return package, int((topology / "core_id").read_text()), core
    except (OSError, ValueError):
        return 0, core, core


def _container_quota() -> int | None:
    """The cores granted by cgroup v2 or v1, rounded up; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            cgroup = Path("/sys/fs/cgroup/cpu")
            quota = (cgroup / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if quota.strip() in ("max", "-1") else math.ceil(int(quota) / int(period))
