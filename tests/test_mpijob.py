"""launch/mpijob.yaml fits the image of the Dockerfile, the launchers and the MPI Operator.

`make docker-check` tests the image itself.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO

DOCKERFILE = (REPO / "Dockerfile").read_text()
JOB = yaml.safe_load((REPO / "launch/mpijob.yaml").read_text())


def pod(role):
    return JOB["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]


def test_one_process_per_gpu_starts_once_all_workers_listen():
    (worker,) = pod("Worker")["containers"]
    (launcher,) = pod("Launcher")["containers"]
    assert JOB["apiVersion"] == "kubeflow.org/v2beta1"
    assert JOB["spec"]["slotsPerWorker"] == worker["resources"]["limits"]["nvidia.com/gpu"]
    assert JOB["spec"]["launcherCreationPolicy"] == "WaitForWorkersReady"
    assert "nvidia.com/gpu" not in launcher["resources"]["limits"]
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert str(worker["readinessProbe"]["tcpSocket"]["port"]) == port
    assert port in worker["command"] and port in launcher["command"]


def test_the_launcher_accepts_its_arguments():
    (launcher,) = pod("Launcher")["containers"]
    script, *options, _ = launcher["command"]
    words = [REPO / Path(script).relative_to("/dist_ft"), "--dry-run", *options, "host1:1"]
    done = subprocess.run([*words, *launcher["args"]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("role", ["Launcher", "Worker"])
def test_the_pods_fit_the_image_and_have_time_to_save_a_checkpoint(role):
    spec = pod(role)
    (container,) = spec["containers"]
    variant = container["image"].rpartition(":")[2]
    assert f"FROM base-cpu AS base-{variant}\n" in DOCKERFILE
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"\nUSER {spec['securityContext']['runAsUser']}\n" in DOCKERFILE
    assert (REPO / Path(container["command"][0]).relative_to("/dist_ft")).is_file()

    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert spec["terminationGracePeriodSeconds"] > 2 * 5 + 30  # twice odls_base_sigkill_timeout
