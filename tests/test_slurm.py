"""launch/slurm.sbatch in jobs of a real Slurm, see hosts/cluster.py."""

from __future__ import annotations

import os
import re
import time

import pytest

from tests.conftest import TINY, needs_mpi
from tests.hosts.cluster import Cluster, missing, until

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

# Instead of the file's own two nodes of four GPUs.
ONE_NODE = ["--nodes=1", "--gres=none", "--cpus-per-task=1", "--ntasks-per-node"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def test_slurm_takes_the_job(slurm):
    told = slurm.ask("sbatch", "--test-only", *ONE_NODE, "1", "launch/slurm.sbatch")
    assert re.search(r"Job \d+ to start at .* using 1 processors", told), told


@needs_mpi
@pytest.mark.skipif(os.cpu_count() == 1, reason="two ranks take two cores of Slurm's")
def test_a_job_near_its_time_limit_saves_a_checkpoint_and_is_queued_again(slurm, tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), *TINY, "--epochs", "1000"]
    log = tmp_path / "log"
    log.touch()
    words = [*ONE_NODE, "2", "--output", str(log), "launch/slurm.sbatch", *flags]
    job = slurm.ask("sbatch", "--parsable", *words).strip()
    assert job.isdecimal(), job
    until(lambda: "epoch 2, loss" in log.read_text(), 60, log.read_text)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    until(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job", job), 60, log.read_text)
    told = log.read_text()
    assert "on 2 x cpu(0)" in told
    assert "stopped by SIGTERM before step" in told

    # Slurm knows a job's starts by their seconds, and launches none in that in which it ended one.
    time.sleep(2)

    def goes_on():
        # By itself it would wait for two minutes, which it counts once the job has left its node.
        slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
        return f"goes on from {tmp_path}" in log.read_text()

    def told_by_slurm():
        return log.read_text() + slurm.ask("scontrol", "show", "job", job)

    until(goes_on, 90, told_by_slurm)
