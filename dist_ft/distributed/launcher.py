"""What the launcher's environment variables say about this process: size, rank, local rank, MPI.

Imports the standard library only, so that it can be used before MXNet is loaded.
"""

from __future__ import annotations

import os
from typing import Mapping, Sequence

# Set by horovodrun, Open MPI, MPICH and Intel MPI, and srun. The first one that is set counts; see
# `_first_number` for the exception that Slurm is.
SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
RANK = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
LOCAL_SIZE = (
    "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_NTASKS_PER_NODE",
)
LOCAL_RANK = (
    "HOROVOD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
)


def launched_size(environ: Mapping[str, str] = os.environ) -> int:
    """The number of processes that the launcher started; 0 without a launcher."""
    return _first_number(environ, SIZE) or 0


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """This process's rank; 0 without a launcher."""
    return _first_number(environ, RANK) or 0


def local_size(environ: Mapping[str, str] = os.environ) -> int:
    """The number of ranks on this host; 1 if the launcher does not report it."""
    return _first_number(environ, LOCAL_SIZE) or 1


def local_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """This process's rank among those of its host; None if the launcher does not report it."""
    return _first_number(environ, LOCAL_RANK)


def started_by_mpi(environ: Mapping[str, str] = os.environ) -> bool:
    """True if mpirun, or horovodrun --mpi, started this process."""
    return "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in environ and (
        "OMPI_COMM_WORLD_SIZE" in environ or "PMI_SIZE" in environ
    )


def _first_number(environ: Mapping[str, str], names: Sequence[str]) -> int | None:
    """The value of the first of these variables that holds a number.

    Slurm's variables count only in a job step of several tasks. `srun --pty bash` is a step of one
    task, and its shell has these variables, too: a command started there is a single process,
    however many tasks the allocation has.
    """
    if environ.get("SLURM_STEP_NUM_TASKS") in (None, "1"):
        names = [name for name in names if not name.startswith("SLURM_")]
    for name in names:
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return None
