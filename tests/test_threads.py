"""threads: each rank's share of the host's cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_ft.distributed import launcher, threads
from tests.test_launcher import SLURM_SHELL

CORES = os.sched_getaffinity(0)
needs_two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")

PROGRAM = """
import json, os, sys
affinity = json.loads(sys.argv[1])
if affinity:
    os.sched_setaffinity(0, affinity)
from dist_ft.distributed import threads
threads.bind_cores()
num_threads = threads.bind_cores()  # a second call changes nothing
assert not {"mxnet", "numpy", "horovod"} & set(sys.modules), "not the standard library only"
print(json.dumps([sorted(os.sched_getaffinity(0)), threads.usable_cores(), num_threads]))
"""
VARIABLES = [
    *launcher.SIZE,
    *launcher.LOCAL_SIZE,
    *launcher.LOCAL_RANK,
    *threads.BINDING,
    "OMP_NUM_THREADS",
]


def bind(affinity=(), **environ):
    """In a new process: the cores it is bound to, the usable cores, and the number of threads."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(affinity))]
    output = subprocess.run(
        command, env={**clean, **environ}, capture_output=True, text=True, check=True
    ).stdout
    cores, num_usable, num_threads = json.loads(output)
    return set(cores), num_usable, num_threads


def bind_rank(local_rank, local_size=2, **environ):
    variables = {"HOROVOD_LOCAL_RANK": str(local_rank), "HOROVOD_LOCAL_SIZE": str(local_size)}
    return bind(**variables, **environ)


def test_a_rank_uses_its_share_of_the_cores():
    num_cores = threads.usable_cores()
    for local_size in (1, 2, 3, 1000):
        environ = {"HOROVOD_LOCAL_SIZE": str(local_size)}
        num_threads = threads.set_num_threads(environ)
        assert num_threads == max(1, num_cores // local_size)
        assert environ["OMP_NUM_THREADS"] == str(num_threads)


@pytest.mark.parametrize("value, num_threads", [("3", 3), ("5,2", 5)])
def test_the_users_number_of_threads_is_kept(value, num_threads):
    environ = {"OMP_NUM_THREADS": value}
    assert threads.set_num_threads(environ) == num_threads
    assert environ == {"OMP_NUM_THREADS": value}


@pytest.mark.parametrize("value", ["", "many", "0"])
def test_an_invalid_number_of_threads_is_replaced(value):
    environ = {"OMP_NUM_THREADS": value}
    assert threads.set_num_threads(environ) == threads.usable_cores()
    assert environ == {"OMP_NUM_THREADS": str(threads.usable_cores())}


def test_a_process_bound_to_one_core_uses_one():
    core = min(CORES)
    assert bind({core}) == ({core}, 1, 1)


def test_a_single_process_is_not_bound_and_uses_all_cores():
    for environ in ({}, SLURM_SHELL, {"HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "1"}):
        cores, num_usable, num_threads = bind(**environ)
        assert cores == CORES
        assert num_usable == num_threads <= len(CORES)


@needs_two_cores
def test_the_ranks_of_a_host_are_bound_to_different_cores():
    first, num_usable, _ = bind_rank(0)
    second, _, _ = bind_rank(1)
    assert first and second and not first & second
    assert first | second == CORES
    assert num_usable == threads.usable_cores()  # of the host, not of the rank


@needs_two_cores
def test_a_launchers_binding_is_kept():
    core = min(CORES)
    cores, num_usable, num_threads = bind(
        {core}, OMPI_COMM_WORLD_LOCAL_SIZE="2", OMPI_COMM_WORLD_LOCAL_RANK="0"
    )
    assert cores == {core}
    assert (num_usable, num_threads) == (2, 1)


@needs_two_cores
def test_ranks_of_horovodrun_share_the_cores_of_a_bound_container():
    core = min(CORES)
    cores, num_usable, num_threads = bind({core}, HOROVOD_LOCAL_SIZE="2", HOROVOD_LOCAL_RANK="0")
    assert (cores, num_usable, num_threads) == ({core}, 1, 1)


@pytest.mark.parametrize("name", threads.BINDING)
def test_the_users_binding_is_kept(name):
    assert bind_rank(0, **{name: "0"})[0] == CORES


def test_more_ranks_than_cores_are_not_bound():
    assert bind_rank(0, local_size=1000)[0] == CORES


@given(st.integers(1, 300), st.integers(1, 64))
def test_every_core_belongs_to_exactly_one_rank(num_cores, local_size):
    cores = list(range(num_cores))
    shares = [threads.share_of(cores, rank, local_size) for rank in range(local_size)]
    assert [core for share in shares for core in share] == cores
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


CPUINFO = """processor	: 0
model name	: {name}
flags		: {flags}
bugs		: sysret_ss_attrs spectre_v1
"""
ZEN_3 = "fma cx16 movbe popcnt aes avx f16c bmi1 avx2 smep bmi2 adx sha_ni xsaves clzero vaes"
CASCADE_LAKE = "bmi2 avx512f avx512dq rdseed avx512cd avx512bw avx512vl xsaveopt avx512_vnni"
ZEN_4 = "bmi2 avx512f avx512dq avx512cd sha_ni avx512bw avx512vl xsaves avx512_bf16 avx512_vnni"
SAPPHIRE_RAPIDS = (
    "avx512f avx512dq avx512bw avx512vl avx_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"
)


@pytest.mark.parametrize(
    "name, flags, is_native, is_emulated",
    [
        ("AMD EPYC 7J13", ZEN_3, False, False),
        ("Intel(R) Xeon(R) Gold 6248", CASCADE_LAKE, False, True),
        ("AMD EPYC 9R14", ZEN_4, True, False),
        ("Intel(R) Xeon(R) Platinum 8488C", SAPPHIRE_RAPIDS, True, False),
        ("an amx_bf16 in a name", "avx2", False, False),
    ],
)
def test_bfloat16_is_native_or_emulated_by_the_processors_flags(
    name, flags, is_native, is_emulated
):
    cpuinfo = CPUINFO.format(name=name, flags=flags)
    assert threads.has_bfloat16(cpuinfo) == is_native
    assert threads.emulates_bfloat16(cpuinfo) == is_emulated
    assert not threads.has_bfloat16("") and not threads.emulates_bfloat16("")
