"""launcher: what the variables of horovodrun, MPI and Slurm say."""

from __future__ import annotations

import pytest

from dist_ft.distributed import launcher

HOROVODRUN = {
    "HOROVOD_SIZE": "4",
    "HOROVOD_LOCAL_SIZE": "2",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}
INTEL_MPI = {"PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"}
# `srun --pty bash` in an allocation of four tasks per node.
SLURM_SHELL = {
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
}


@pytest.mark.parametrize(
    "environ, size, by_mpi",
    [
        ({}, 0, False),
        (HOROVODRUN, 4, False),
        (OPEN_MPI, 6, True),
        (INTEL_MPI, 8, True),
        ({"SLURM_STEP_NUM_TASKS": "5"}, 5, False),
        (SLURM_SHELL, 0, False),
        ({**SLURM_SHELL, "HOROVOD_SIZE": "1"}, 1, False),  # horovodrun -np 1 in that shell
        ({**SLURM_SHELL, **OPEN_MPI}, 6, True),
        ({**OPEN_MPI, **HOROVODRUN}, 4, False),  # horovodrun --gloo inside an MPI allocation
        ({"HOROVOD_SIZE": ""}, 0, False),
    ],
)
def test_number_of_launched_processes(environ, size, by_mpi):
    assert launcher.launched_size(environ) == size
    assert launcher.started_by_mpi(environ) == by_mpi


def test_ranks_of_a_slurm_step_with_several_tasks():
    environ = {
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS_PER_NODE": "4",
    }
    assert (launcher.rank(environ), launcher.local_size(environ)) == (5, 4)
    assert launcher.local_rank(environ) == 1


def test_a_slurm_shell_is_a_single_process():
    assert (launcher.rank(SLURM_SHELL), launcher.local_size(SLURM_SHELL)) == (0, 1)
    assert launcher.local_rank(SLURM_SHELL) is None
