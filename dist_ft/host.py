"""What the launcher and the machine say about this process, before MXNet is loaded."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Mapping, MutableMapping

# Set by horovodrun, Open MPI, MPICH and Intel MPI, and srun, in the order in which they are asked.
SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
LOCAL_SIZE = (
    *("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
    "SLURM_NTASKS_PER_NODE",
)


def launched_size(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher started; 0 where none is known."""
    return _first(environ, SIZE) or 0


def started_by_mpi(environ: Mapping[str, str] = os.environ) -> bool:
    return "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in environ and (
        "OMPI_COMM_WORLD_SIZE" in environ or "PMI_SIZE" in environ
    )


def set_threads(environ: MutableMapping[str, str] = os.environ) -> int:
    """Gives this process its share of the host's cores; returns the number of threads.

    MXNet reads OMP_NUM_THREADS when it is loaded, and would take half of the cores otherwise, on
    each rank. The user's own setting wins.
    """
    local_size = _first(environ, LOCAL_SIZE) or 1
    share = max(1, usable_cores() // local_size)
    said = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not said.isdecimal() or int(said) == 0:  # unset, empty, or no number of threads
        said = environ["OMP_NUM_THREADS"] = str(share)
    return int(said)


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota.

    A launcher that binds each rank to cores of its own has divided them already; their number is
    then counted for the whole host.
    """
    cores = os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0))
    if "HOROVOD_LOCAL_SIZE" not in os.environ:  # horovodrun binds nothing: a container may have
        local_size = _first(os.environ, LOCAL_SIZE) or 1
        if bound * local_size <= cores:
            bound *= local_size
    return max(1, min(bound, _quota() or bound))


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers (AVX512-BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _quota() -> int | None:
    """Cores a container is held to by version 2 or 1 of control groups; None: no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if quota.strip() in ("max", "-1") else math.ceil(int(quota) / int(period))


def _first(environ: Mapping[str, str], names) -> int | None:
    return next((int(environ[n]) for n in names if environ.get(n, "").isdigit()), None)
