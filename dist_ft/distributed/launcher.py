"""What the launcher and the machine say about this process, before MXNet is loaded."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Mapping, MutableMapping, Sequence

# Set by horovodrun, Open MPI, MPICH and Intel MPI, and srun, in the order in which they are asked;
# see `_first` for when Slurm is.
SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
RANK = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
LOCAL_SIZE = (
    *("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
    "SLURM_NTASKS_PER_NODE",
)
LOCAL_RANK = (
    *("HOROVOD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
    "SLURM_LOCALID",
)
BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")  # the user's own

_allowed_before: frozenset[int] | None = None  # cores of this process, before `take_cores` bound it


def launched_size(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes the launcher started; 0 where none is known."""
    return _first(environ, SIZE) or 0


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """This process's, as the launcher has said it."""
    return _first(environ, RANK) or 0


def local_size(environ: Mapping[str, str] = os.environ) -> int:
    """How many of its processes the launcher started on this host, as far as it said so."""
    return _first(environ, LOCAL_SIZE) or 1


def started_by_mpi(environ: Mapping[str, str] = os.environ) -> bool:
    return "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in environ and (
        "OMPI_COMM_WORLD_SIZE" in environ or "PMI_SIZE" in environ
    )


def take_cores(environ: MutableMapping[str, str] = os.environ) -> int:
    """Binds this process to its share of the host's cores, and gives it as many threads.

    To be called by a program before it loads MXNet; again it changes nothing. Bound ranks do not
    take turns on a core while another one idles. A launcher's binding and
    the user's own are left as they are. Returns the number of threads.
    """
    global _allowed_before
    threads = set_threads(environ)
    local_rank, local_size = _first(environ, LOCAL_RANK), _first(environ, LOCAL_SIZE) or 1
    cores = os.sched_getaffinity(0)
    divided = "HOROVOD_LOCAL_SIZE" not in environ and len(cores) < (os.cpu_count() or 1)
    shares = local_rank is not None and 1 < local_size <= len(cores)
    is_bound = divided or _allowed_before or any(environ.get(name) for name in BINDING)
    if shares and not is_bound:
        _allowed_before = frozenset(cores)
        os.sched_setaffinity(0, share_of(sorted(cores, key=_place), local_rank, local_size))
    return threads


def share_of(cores: Sequence[int], local_rank: int, local_size: int) -> Sequence[int]:
    """A rank's cores: neighbours, none of another rank's, and none left over."""
    num = len(cores)
    return cores[local_rank * num // local_size : (local_rank + 1) * num // local_size]


def _place(core: int) -> tuple[int, ...]:
    """Sorts cores by socket, then so that both threads of one are neighbours."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        names = "physical_package_id", "core_id"
        return (*(int((topology / name).read_text()) for name in names), core)
    except (OSError, ValueError):
        return (0, core, core)


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
    bound = len(_allowed_before or os.sched_getaffinity(0))
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


def _first(environ: Mapping[str, str], names: Sequence[str]) -> int | None:
    """What the first of the names that is set says.

    Slurm is asked in a step of several tasks alone. Its shells have these variables, too, of `srun
    --pty bash` as a step of one task: what is started there is one process, however many tasks the
    allocation has room for.
    """
    if environ.get("SLURM_STEP_NUM_TASKS") in (None, "1"):
        names = [name for name in names if not name.startswith("SLURM_")]
    return next((int(environ[n]) for n in names if environ.get(n, "").isdigit()), None)
