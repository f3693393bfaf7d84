"""install.sh: choosing a Python, requirements, error messages, and the cache of Horovod's wheel.

The tests source launch/install.sh and call its functions. Interpreters and compilers that it should
find, or miss, are scripts on the PATH. Nothing is downloaded or compiled.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parent.parent
SCRIPT = REPO / "launch/install.sh"
BIN = Path(sys.executable).parent

installed_here = pytest.mark.skipif(
    not (BIN.parent / "installed").exists(), reason="needs an environment of launch/install.sh"
)


def bash(program: str, path: Path | None = None, **env: object) -> subprocess.CompletedProcess:
    """Runs a program after sourcing install.sh; if path is given, it is the only folder on PATH."""
    limit = f"PATH={path}" if path else ""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "VENV")}
    return subprocess.run(
        ["bash", "-c", f"source {SCRIPT}\n{limit}\n{program}"],
        env={**clean, **{key: str(value) for key, value in env.items()}},
        capture_output=True,
        text=True,
        timeout=60,
    )


def command(folder: Path, name: str, script: str) -> None:
    """Puts an executable shell script into a folder of commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"python3": "3.11.2"}, "python3"),
        ({"python3": "3.12.3", "python3.11": "3.11.9"}, "python3"),
        ({"python3": "3.13.0", "python3.10": "3.10.4", "python3.8": "3.8.1"}, "python3.10"),
        ({"python3": "3.7.17", "python3.12": "3.12.1"}, "python3.12"),
        ({"python3": "3.13.0"}, None),
        ({}, None),
    ],
)
def test_the_first_supported_python_is_chosen(tmp_path, installed, expected):
    folder = tmp_path / "commands"
    folder.mkdir()
    for name, version in installed.items():
        command(folder, name, f"echo {version}")
    done = bash("find_python", path=folder, HOME=tmp_path)
    assert done.stdout.strip() == (str(folder / expected) if expected else "")
    assert done.returncode == (0 if expected else 1)


def test_a_python_in_pyenv_is_found(tmp_path):
    versions = tmp_path / ".pyenv/versions/3.9.18"
    versions.mkdir(parents=True)
    command(versions / "bin", "python3", "echo 3.9.18")
    done = bash("find_python", path=tmp_path, HOME=tmp_path)
    assert done.stdout.strip() == str(versions / "bin/python3")


def test_an_unsupported_python_is_named_with_its_version(tmp_path):
    command(tmp_path / "bin", "python3.13", "echo 3.13.0")
    env = {**os.environ, "PYTHON": str(tmp_path / "bin/python3.13"), "VENV": str(tmp_path / "v")}
    done = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "python3.13 is Python 3.13.0" in done.stderr
    assert "3.8 to 3.12" in done.stderr


def test_without_any_python_the_error_says_what_to_install(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "dirname", "ls", "mktemp", "rm", "uname"):
        (folder / name).symlink_to(shutil.which(name))
    env = {"PATH": str(folder), "HOME": str(tmp_path), "VENV": str(tmp_path / "v")}
    done = subprocess.run(["bash", SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "install one" in done.stderr


def test_a_folder_that_is_not_an_environment_is_not_removed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = bash("ensure_venv", VENV=tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} was not created by this script" in done.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("missing", ["g++", "make"])
def test_a_missing_compiler_is_reported_with_the_package_to_install(tmp_path, missing):
    command(tmp_path, {"g++": "make", "make": "g++"}[missing], "true")
    done = bash("check_compilers mxnet==1.9.1", path=tmp_path, VENV="/tmp/v")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"apt-get install {missing}" in done.stderr


@pytest.mark.parametrize(
    ("python", "numpy", "supported"),
    [
        ("3.8", "1.23.5", True),
        ("3.11", "1.23.5", True),
        ("3.11", "1.24.4", False),
        ("3.11", "1.26.4", False),
        ("3.10", "2.2.6", False),
        ("3.12", "1.26.4", True),
        ("3.12", "2.0.1", False),
    ],
)
def test_an_unsupported_numpy_is_reported_with_the_remedy(tmp_path, python, numpy, supported):
    (tmp_path / f"lib/python{python}/site-packages/numpy-{numpy}.dist-info").mkdir(parents=True)
    command(tmp_path / "bin", "python", "echo remedy")
    done = bash("check_numpy", VENV=tmp_path)
    assert (done.returncode == 0) == supported, done.stderr
    if not supported:
        assert len(done.stderr.splitlines()) == 1
        assert f"numpy-{numpy} in {tmp_path}" in done.stderr
        assert "/bin/pip install 'remedy'" in done.stderr


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("mpicxx: Open MPI 4.1.4 (Language: C++)", "openmpi-4.1.4"),
        ("mpicxx for MPICH version 4.0.2", "mpich-4.0.2"),
        ("icpc version 2021.7", "mpi-"),
        (None, "nompi"),
    ],
)
def test_mpi_is_identified_by_kind_and_version(tmp_path, output, expected):
    if output:
        command(tmp_path, "mpicxx", f"echo '{output}'")
    for name in ("cksum", "cut"):
        (tmp_path / name).symlink_to(shutil.which(name))
    assert bash("mpi_version", path=tmp_path).stdout.startswith(expected)


def test_the_cached_wheel_has_a_key_of_everything_that_it_depends_on(tmp_path):
    def key(mxnet="mxnet==1.9.1", horovod="horovod==0.28.1", mpi="nompi", venv=BIN.parent, **env):
        done = bash(f"wheel_key {mxnet} {horovod} {mpi}", VENV=venv, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    other = tmp_path / "other"
    other.mkdir()
    command(other / "bin", "python", f"{sys.executable} -c 'print(\"cp00\")'")
    keys = [
        key(),
        key(mxnet="mxnet-cu112==1.9.1"),
        key(mxnet="mxnet-cu112==1.9.1", HOROVOD_GPU_OPERATIONS=""),
        key(mxnet="mxnet-cu112==1.9.1", HOROVOD_GPU_OPERATIONS="MPI"),
        key(mxnet="mxnet==1.9.0"),
        key(horovod="horovod==0.28.0"),
        key(mpi="openmpi-4.1.4"),
        key(venv=other),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0].startswith("cp{}{}_".format(*sys.version_info))
    assert "/" not in keys[0]


@pytest.mark.parametrize(
    ("mxnet", "environment", "expected"),
    [
        ("mxnet==1.9.1", {}, ""),
        ("mxnet-cu112==1.9.1", {}, "NCCL"),
        ("mxnet-cu112==1.9.1", {"HOROVOD_GPU_OPERATIONS": ""}, ""),
        ("mxnet-cu100==1.9.0", {}, ""),
        ("mxnet-cu100==1.9.0", {"HOROVOD_GPU_OPERATIONS": "NCCL"}, "NCCL"),
    ],
)
def test_horovod_uses_nccl_if_it_is_installed_with_mxnet(mxnet, environment, expected):
    assert bash(f"gpu_operations {mxnet}", **environment).stdout.strip() == expected


def test_a_failed_step_prints_the_error_and_the_path_of_the_log(tmp_path):
    log = tmp_path / "install.log"
    program = 'step "building" sh -c "echo fine; echo fatal error: no such header >&2; exit 3"'
    done = bash(f"{program}; echo unreached", VENV=tmp_path)
    assert done.returncode == 1
    assert "fatal error: no such header" in done.stderr
    assert str(log) in done.stderr
    assert "unreached" not in done.stdout
    assert "fine" in log.read_text()


def test_a_step_prints_its_elapsed_time(tmp_path):
    done = bash('every_s=1; step "waiting" sh -c "echo first; sleep 1.2"', VENV=tmp_path)
    assert "first" in done.stdout
    assert re.search(r"waiting +\d+ s  done$", done.stdout)


@pytest.mark.parametrize("package", ["mxnet", "mxnet-cu100", "mxnet-cu112", "gluoncv", "horovod"])
def test_the_pinned_versions_come_from_setup_py(package):
    (requirement,) = bash(f"pin {package}").stdout.splitlines()
    assert requirement.startswith(f"{package}==")


@installed_here
def test_the_installed_packages_satisfy_setup_py():
    extras = ("", "cpu", *(name for name in ("gluoncv", "horovod") if has_package(name)))
    for requirement in map(Requirement, metadata.requires("dist-ft")):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            version = metadata.version(requirement.name)
            # Horovod's version has a local part, the names of its patches.
            assert requirement.specifier.contains(version), f"{requirement}, but {version}"


def has_package(name):
    return importlib.util.find_spec(name) is not None


@installed_here
def test_an_extra_is_listed_without_the_package_of_its_name():
    listed = bash("other_requirements horovod", VENV=BIN.parent).stdout.split()
    assert {"cloudpickle", "psutil"} <= set(listed)
    assert not any(requirement.startswith("horovod") for requirement in listed)


@installed_here
def test_opencv_is_installed_without_its_graphical_parts():
    installed = {(dist.metadata["Name"] or "").lower() for dist in metadata.distributions()}
    assert "opencv-python-headless" in installed
    assert "opencv-python" not in installed


@installed_here
@pytest.mark.jobs
def test_ranks_connect_on_a_machine_whose_name_does_not_resolve():
    nameless = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh"]
    if subprocess.run([*nameless, "true"], capture_output=True).returncode:
        pytest.skip("only root can change the host name of a process")
    program = "import dist_ft, horovod.mxnet as hvd; hvd.init(); print(hvd.size(), 'ranks')"
    launch = [BIN / "horovodrun", "-np", "2", "-H", "127.0.0.1:2", "--gloo"]
    done = subprocess.run(
        [*nameless, *launch, sys.executable, "-c", program],
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 ranks") == 2
