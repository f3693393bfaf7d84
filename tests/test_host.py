"""host: what launchers say, and a process's share of the cores."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft.distributed import launcher
from tests.conftest import run_command

HOROVODRUN = {
    "HOROVOD_SIZE": "4",
    "HOROVOD_LOCAL_SIZE": "2",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}
INTEL_MPI = {"PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"}
# `srun --pty bash` in an allocation for four tasks a node.
SLURM_SHELL = {
    **{"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    **{"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"},
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
def test_the_launcher_says_how_many_processes_there_are(environ, size, by_mpi):
    assert launcher.launched_size(environ) == size
    assert launcher.started_by_mpi(environ) == by_mpi


def test_one_task_of_slurms_is_one_process_on_all_cores_and_needs_no_horovod():
    code = (
        "import sys; from dist_ft.distributed import launcher; threads = launcher.take_cores();"
        "from dist_ft.distributed import startup\n"
        "with startup.start() as world: print('is', type(world).__name__, threads)\n"
        "assert 'horovod' not in sys.modules"
    )
    environ = [f"{name}={value}" for name, value in SLURM_SHELL.items()]
    without = [word for name in launcher.SIZE[:-1] for word in ("-u", name)]
    command = ["env", *without, "-u", "OMP_NUM_THREADS", *environ, sys.executable, "-c", code]
    ended = run_command(command, 60)
    assert ended.status == 0, ended.output
    assert f"is World {launcher.usable_cores()}\n" in ended.output


def test_slurms_several_tasks_have_its_ranks():
    environ = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_NTASKS_PER_NODE": "4"}
    assert (launcher.rank(environ), launcher.local_size(environ)) == (5, 4)
    assert (launcher.rank(SLURM_SHELL), launcher.local_size(SLURM_SHELL)) == (0, 1)


def test_a_process_gets_its_share_of_the_cores():
    cores = launcher.usable_cores()
    for ranks in (1, 2, 3, 1000):
        environ = {"HOROVOD_LOCAL_SIZE": str(ranks)}
        threads = launcher.set_threads(environ)
        assert threads == max(1, cores // ranks)
        assert environ["OMP_NUM_THREADS"] == str(threads)


@pytest.mark.parametrize("said, threads", [("3", 3), ("5,2", 5)])
def test_the_users_own_number_of_threads_wins(said, threads):
    environ = {"OMP_NUM_THREADS": said}
    assert launcher.set_threads(environ) == threads
    assert environ == {"OMP_NUM_THREADS": said}


@pytest.mark.parametrize("said", ["", "many", "0"])
def test_a_number_of_threads_that_is_none_is_not_taken(said):
    environ = {"OMP_NUM_THREADS": said}
    assert launcher.set_threads(environ) == launcher.usable_cores()
    assert environ == {"OMP_NUM_THREADS": str(launcher.usable_cores())}


def cores_of(affinity, **environ):
    """What a process that is bound to these cores makes of them."""
    code = (
        f"import os; os.sched_setaffinity(0, {affinity!r});"
        "from dist_ft.distributed import launcher; print(launcher.usable_cores())"
    )
    clean = {k: v for k, v in os.environ.items() if k not in (*launcher.SIZE, *launcher.LOCAL_SIZE)}
    command = [sys.executable, "-c", code]
    made = subprocess.run(command, capture_output=True, text=True, env={**clean, **environ})
    return int(made.stdout)


def test_a_process_bound_to_one_core_uses_one():
    core = min(os.sched_getaffinity(0))
    assert cores_of({core}) == 1


def test_cores_are_at_most_those_that_the_process_is_bound_to():
    assert 1 <= launcher.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_ranks_that_a_launcher_bound_to_cores_of_their_own_keep_them():
    core = min(os.sched_getaffinity(0))
    cores = cores_of({core}, OMPI_COMM_WORLD_LOCAL_SIZE="2")
    assert cores // 2 == 1


def test_horovodrun_binds_nothing_so_ranks_share_the_cores_of_a_bound_container():
    core = min(os.sched_getaffinity(0))
    assert cores_of({core}, HOROVOD_LOCAL_SIZE="2") == 1


@given(st.integers(1, 300), st.integers(1, 64))
def test_every_core_is_one_ranks(num_cores, local_size):
    cores = list(range(num_cores))
    shares = [launcher.share_of(cores, rank, local_size) for rank in range(local_size)]
    assert [core for share in shares for core in share] == cores
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def bound_to(rank, **environ):
    """The cores of a rank of two, and how many it knows of, after it took its share."""
    code = (
        "import os; from dist_ft.distributed import launcher; threads = launcher.take_cores();"
        "launcher.take_cores();"
        "print(*sorted(os.sched_getaffinity(0)), '|', launcher.usable_cores())"
    )
    started = {"HOROVOD_LOCAL_RANK": str(rank), "HOROVOD_LOCAL_SIZE": "2", **environ}
    environ = {**{k: v for k, v in os.environ.items() if k not in launcher.BINDING}, **started}
    command = [sys.executable, "-c", code]
    made = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    cores, known = made.stdout.split("|")
    return set(map(int, cores.split())), int(known)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_ranks_of_a_host_are_bound_to_cores_of_their_own():
    (first, known), (second, _) = bound_to(0), bound_to(1)
    assert first | second == os.sched_getaffinity(0)
    assert first and second and not first & second
    assert known == launcher.usable_cores()  # of the host, not of the rank


@pytest.mark.parametrize("name", launcher.BINDING)
def test_the_users_own_binding_wins(name):
    assert bound_to(0, **{name: "0"})[0] == os.sched_getaffinity(0)


def test_one_process_is_bound_to_nothing():
    assert bound_to(0, HOROVOD_LOCAL_SIZE="1")[0] == os.sched_getaffinity(0)


def test_more_ranks_than_cores_are_bound_to_nothing():
    assert bound_to(0, HOROVOD_LOCAL_SIZE="1000")[0] == os.sched_getaffinity(0)


def test_it_needs_nothing_but_the_standard_library():
    code = (
        "import sys; from dist_ft.distributed import launcher;"
        "launcher.set_threads(); print(*sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "dist_ft.distributed.launcher" in made.stdout
    assert not {"mxnet", "numpy", "horovod"} & set(made.stdout.split())
