"""launch/slurm.sbatch on a real Slurm cluster of one node (tests/hosts/cluster.py)."""

from __future__ import annotations

import os
import re
import time

import pytest

from tests.conftest import TINY, needs_mpi
from tests.hosts.cluster import Cluster, unavailable, wait_until

REASON = unavailable()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]

# Replaces the two nodes with four GPUs each that slurm.sbatch asks for.
ONE_NODE = ["--nodes=1", "--gres=none", "--cpus-per-task=1", "--ntasks-per-node"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def test_slurm_accepts_the_job(slurm):
    output = slurm.run("sbatch", "--test-only", *ONE_NODE, "1", "launch/slurm.sbatch")
    assert re.search(r"Job \d+ to start at .* using 1 processors", output), output


@needs_mpi
@pytest.mark.skipif(os.cpu_count() == 1, reason="two ranks need two cores")
def test_a_job_near_its_time_limit_saves_a_checkpoint_and_is_requeued(slurm, tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *TINY, "--epochs", "1000"]
    log = tmp_path / "log"
    log.touch()
    arguments = [*ONE_NODE, "2", "--output", str(log), "launch/slurm.sbatch", *flags]
    job = slurm.run("sbatch", "--parsable", *arguments).strip()
    assert job.isdecimal(), job

    def details():
        return log.read_text() + slurm.run("scontrol", "show", "job", job)

    wait_until(lambda: "epoch 2, loss" in log.read_text(), 180, details)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: "Restarts=1" in slurm.run("scontrol", "show", "job", job), 180, details)
    assert "on 2 x cpu(0)" in log.read_text()
    assert "stopped by SIGTERM before step" in log.read_text()

    # Slurm identifies a start of a job by its second: do not start it again in the same one.
    time.sleep(2)

    def resumes():
        # A requeued job would wait for two minutes from the time when its node is free again.
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        return f"resuming from {tmp_path}" in log.read_text()

    wait_until(resumes, 180, details)
