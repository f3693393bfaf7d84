"""Every command: help without MXNet, threads before MXNet, and one line for a missing extra."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from dist_ft.cli import COMMANDS
from dist_ft.distributed import threads
from tests.conftest import REPO

# Arguments with which a command begins its work.
ARGUMENTS = {
    "train": ["--data", "missing"],
    "evaluate": ["missing", "missing"],
    "predict": ["missing", "missing.jpg"],
    "export": ["missing", "--to", "onnx", "--out", "missing.onnx"],
    "report": ["missing"],
    "doctor": ["--data", "missing"],
    "bench": ["step"],
}
HEAVY_MODULES = {"mxnet", "numpy", "cv2", "horovod", "gluoncv", "matplotlib", "yaml", "scipy"}

# Runs a command until it imports MXNet, and prints the number of threads at that moment.
UNTIL_MXNET = """
import os, runpy, sys

class UntilMxnet:
    def find_spec(self, name, path=None, target=None):
        if name == "mxnet":
            print("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, UntilMxnet())
command, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(f"dist_ft.{command}", run_name="__main__", alter_sys=True)
"""


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, "PYTHONPATH": str(REPO), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_loads_the_standard_library_only(command):
    result = run("-X", "importtime", "-m", f"dist_ft.{command}", "--help")
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & HEAVY_MODULES


@pytest.mark.parametrize("command", ARGUMENTS)
def test_threads_are_set_before_mxnet_is_imported(command):
    result = run("-c", UNTIL_MXNET, command, *ARGUMENTS[command])
    assert result.stdout == f"OMP_NUM_THREADS {threads.usable_cores()}\n", result.stderr


@pytest.mark.parametrize("command", [*sorted(set(COMMANDS) - set(ARGUMENTS)), "pack --recordio"])
def test_commands_that_run_no_network_never_load_mxnet(command, tiny, tmp_path):
    name, *flags = command.split()
    arguments = [str(tiny), *flags, *(str(tmp_path / "archives") for _ in flags)]
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    result = run("-X", "importtime", "-m", f"dist_ft.{name}", *arguments, **cache)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "numpy" in loaded, result.stderr[-2000:]
    assert "mxnet" not in loaded


def test_prepare_never_loads_mxnet(tmp_path):
    script = str(REPO / "food5" / "prepare.py")
    result = run("-X", "importtime", script, str(tmp_path), "--out", str(tmp_path / "out"))
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "cv2" in loaded, result.stderr[-2000:]
    assert "mxnet" not in loaded


@pytest.fixture(scope="module")
def packages_without_mxnet(tmp_path_factory) -> Path:
    """The installed packages, as after a plain `pip install .`: without MXNet and gluoncv."""
    folder = tmp_path_factory.mktemp("site-packages")
    for installed in map(Path, site.getsitepackages()):
        for entry in installed.iterdir():
            is_extra = entry.name.startswith(("mxnet", "gluoncv", "horovod", "__editable__"))
            if not is_extra and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.mark.parametrize("command", ARGUMENTS)
def test_without_mxnet_a_command_names_the_missing_extra(command, packages_without_mxnet):
    path = os.pathsep.join((str(REPO), str(packages_without_mxnet)))
    arguments = ("-S", "-m", f"dist_ft.{command}", *ARGUMENTS[command])
    result = run(*arguments, PYTHONPATH=path)
    assert result.returncode == 1
    assert "pip install 'dist-ft[cpu]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
