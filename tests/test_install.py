"""The installation: which Python it takes, what it says when something is missing, what it pins.

launch/install.sh is sourced, so that its functions run as they are; interpreters and compilers that
it should find, or miss, are really on the PATH or not. Nothing is downloaded and nothing compiled.
"""

from __future__ import annotations

import os
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

made_here = pytest.mark.skipif(
    not (BIN.parent / "installed").exists(), reason="not an environment of launch/install.sh"
)


def bash(program: str, path: Path | None = None, **env: object) -> subprocess.CompletedProcess:
    """Runs a program after sourcing the script, with no command but those in `path` if given."""
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
    ("there", "taken"),
    [
        ({"python3": "3.11.2"}, "python3"),
        ({"python3": "3.12.3", "python3.11": "3.11.9"}, "python3"),
        ({"python3": "3.13.0", "python3.10": "3.10.4", "python3.8": "3.8.1"}, "python3.10"),
        ({"python3": "3.7.17", "python3.12": "3.12.1"}, "python3.12"),
        ({"python3": "3.13.0"}, None),
        ({}, None),
    ],
)
def test_the_first_python_that_mxnet_runs_on_is_taken(tmp_path, there, taken):
    folder = tmp_path / "commands"
    folder.mkdir()
    for name, version in there.items():
        command(folder, name, f"echo {version}")
    ended = bash("find_python", path=folder, HOME=tmp_path)
    assert ended.stdout.strip() == (str(folder / taken) if taken else "")
    assert ended.returncode == (0 if taken else 1)


def test_a_python_in_pyenv_is_found(tmp_path):
    versions = tmp_path / ".pyenv/versions/3.9.18"
    versions.mkdir(parents=True)
    command(versions / "bin", "python3", "echo 3.9.18")
    ended = bash("find_python", path=tmp_path, HOME=tmp_path)
    assert ended.stdout.strip() == str(versions / "bin/python3")


def test_a_python_that_does_not_fit_is_named_with_its_version(tmp_path):
    command(tmp_path / "bin", "python3.13", "echo 3.13.0")
    env = {**os.environ, "PYTHON": str(tmp_path / "bin/python3.13"), "VENV": str(tmp_path / "v")}
    ended = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "python3.13 is Python 3.13.0" in ended.stderr
    assert "3.8 to 3.12" in ended.stderr


def test_no_python_at_all_gets_one_line_that_says_what_to_install(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "dirname", "ls", "mktemp", "rm", "uname"):
        (folder / name).symlink_to(shutil.which(name))
    env = {"PATH": str(folder), "HOME": str(tmp_path), "VENV": str(tmp_path / "v")}
    ended = subprocess.run(["bash", SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "install one" in ended.stderr


def test_a_foreign_folder_in_the_place_of_the_environment_is_not_removed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    ended = bash("ensure_venv", VENV=tmp_path)
    assert ended.returncode == 1
    assert f"{tmp_path} is in the way" in ended.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("missing", ["g++", "make"])
def test_a_missing_compiler_gets_one_line_that_says_what_to_do(tmp_path, missing):
    command(tmp_path, {"g++": "make", "make": "g++"}[missing], "true")
    ended = bash("need_compiler mxnet==1.9.1", path=tmp_path, VENV="/tmp/v")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert f"apt-get install {missing}" in ended.stderr


@pytest.mark.parametrize(
    ("python", "numpy", "fits"),
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
def test_a_numpy_that_mxnet_cannot_bear_gets_one_line_with_the_remedy(
    tmp_path, python, numpy, fits
):
    (tmp_path / f"lib/python{python}/site-packages/numpy-{numpy}.dist-info").mkdir(parents=True)
    command(tmp_path / "bin", "python", "echo remedy")
    ended = bash("check_numpy", VENV=tmp_path)
    assert (ended.returncode == 0) == fits, ended.stderr
    if not fits:
        assert len(ended.stderr.splitlines()) == 1
        assert f"numpy-{numpy} is in {tmp_path}" in ended.stderr
        assert "/bin/pip install 'remedy'" in ended.stderr


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("mpicxx: Open MPI 4.1.4 (Language: C++)", "openmpi-4.1.4"),
        ("mpicxx for MPICH version 4.0.2", "mpich-4.0.2"),
        ("icpc version 2021.7", "mpi-"),
        (None, "nompi"),
    ],
)
def test_the_mpi_is_known_by_kind_and_version(tmp_path, says, kind):
    if says:
        command(tmp_path, "mpicxx", f"echo '{says}'")
    for name in ("cksum", "cut"):
        (tmp_path / name).symlink_to(shutil.which(name))
    assert bash("mpi", path=tmp_path).stdout.startswith(kind)


def test_the_kept_wheel_is_keyed_by_all_that_it_depends_on(tmp_path):
    def key(mxnet="mxnet==1.9.1", horovod="horovod==0.28.1", mpi="nompi", venv=BIN.parent, **env):
        ended = bash(f"wheel_key {mxnet} {horovod} {mpi}", VENV=venv, **env)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    other = tmp_path / "other"
    command(tmp_path / "other", "noop", "")
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
    ("mxnet", "said", "taken"),
    [
        ("mxnet==1.9.1", {}, ""),
        ("mxnet-cu112==1.9.1", {}, "NCCL"),
        ("mxnet-cu112==1.9.1", {"HOROVOD_GPU_OPERATIONS": ""}, ""),
        ("mxnet-cu100==1.9.0", {}, ""),
        ("mxnet-cu100==1.9.0", {"HOROVOD_GPU_OPERATIONS": "NCCL"}, "NCCL"),
    ],
)
def test_horovod_takes_nccl_where_it_comes_with_mxnet_unless_told_otherwise(mxnet, said, taken):
    assert bash(f"gpu_operations {mxnet}", **said).stdout.strip() == taken


def test_a_failing_step_names_its_log_and_repeats_the_error(tmp_path):
    log = tmp_path / "install.log"
    program = 'step "building" sh -c "echo fine; echo fatal error: no such header >&2; exit 3"'
    ended = bash(f"{program}; echo unreached", VENV=tmp_path)
    assert ended.returncode == 1
    assert "fatal error: no such header" in ended.stderr
    assert str(log) in ended.stderr
    assert "unreached" not in ended.stdout
    assert "fine" in log.read_text()


def test_a_step_shows_its_seconds_and_keeps_its_output_in_the_log(tmp_path):
    ended = bash('every_s=1; step "waiting" sh -c "echo first; sleep 2"', VENV=tmp_path)
    assert "first" in ended.stdout
    assert ended.stdout.splitlines()[-1].split() == ["waiting", "2", "s", "done"]


def test_every_pin_that_the_script_asks_for_is_in_setup_py():
    for package in ("mxnet", "mxnet-cu100", "mxnet-cu112", "gluoncv", "horovod"):
        assert bash(f"pin {package}").stdout.splitlines()[0].startswith(f"{package}==")
        assert len(bash(f"pin {package}").stdout.splitlines()) == 1


@made_here
def test_what_is_installed_is_what_setup_py_asks_for():
    lines = metadata.requires("dist-ft") or []
    wanted = [Requirement(line) for line in lines]
    checked = 0
    for want in wanted:
        if want.marker and not want.marker.evaluate({"extra": "cpu"}):
            continue
        version = metadata.version(want.name)
        assert want.specifier.contains(version), f"{want} is installed as {version}"
        checked += 1
    assert checked > 10


@made_here
def test_only_the_opencv_that_needs_no_libgl_is_installed():
    installed = {(dist.metadata["Name"] or "").lower() for dist in metadata.distributions()}
    assert "opencv-python-headless" in installed
    assert "opencv-python" not in installed


@made_here
def test_the_console_script_is_there():
    scripts = [entry.value for entry in metadata.distribution("dist-ft").entry_points]
    assert scripts == ["dist_ft.cli:main"]
    assert os.access(BIN / "dist-ft", os.X_OK)


@made_here
def test_ranks_meet_on_a_machine_whose_name_resolves_to_nothing():
    nameless = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid && exec "$@"', "sh"]
    if subprocess.run([*nameless, "true"], capture_output=True).returncode:
        pytest.skip("only root can give a process another host name")
    program = "import dist_ft, horovod.mxnet as hvd; hvd.init(); print(hvd.size(), 'met')"
    launch = [BIN / "horovodrun", "-np", "2", "-H", "127.0.0.1:2", "--gloo"]
    ended = subprocess.run(
        [*nameless, *launch, sys.executable, "-c", program],
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("2 met") == 2


def test_make_alone_says_what_there_is_to_make():
    ended = subprocess.run(["make", "-C", REPO], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    for target in ("make train", "make test", "make lint", "make clean"):
        assert target in ended.stdout


@pytest.mark.parametrize("script", [SCRIPT, REPO / ".ci/run"], ids=lambda path: path.name)
def test_the_shell_scripts_are_in_order(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", script]).returncode == 0
