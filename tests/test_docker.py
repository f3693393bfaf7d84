"""What launch/mpijob.yaml relies on in the Dockerfile; `make docker-check` tests the image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO

DOCKERFILE = (REPO / "Dockerfile").read_text()
JOB = yaml.safe_load((REPO / "launch/mpijob.yaml").read_text())


@pytest.mark.parametrize("role", ["Launcher", "Worker"])
def test_the_mpijob_matches_the_image(role):
    pod = JOB["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]
    (container,) = pod["containers"]
    variant = container["image"].rpartition(":")[2]
    assert f"FROM base-cpu AS base-{variant}\n" in DOCKERFILE
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"\nUSER {pod['securityContext']['runAsUser']}\n" in DOCKERFILE
    program = Path(container["command"][0])
    assert (REPO / program.relative_to("/dist_ft")).is_file()
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert port in container["command"]
