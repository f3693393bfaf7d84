"""tracking.viewer: the command that is printed at the end of a run."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dist_ft.tracking.viewer import how_to_view


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment that is not activated, without TensorBoard."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "my env/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    return python.parent


def write_viewer(folder: Path) -> None:
    """Puts a program named tensorboard into a folder, which prints its arguments."""
    folder.mkdir(exist_ok=True)
    (folder / "tensorboard").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "tensorboard").chmod(0o755)


def test_the_command_shows_a_folder_whatever_its_name(environment):
    write_viewer(environment)
    folder = Path("my runs/it's $HOME")
    command = how_to_view(folder).split(": ", 1)[1]
    shown = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["--logdir", str(folder)]


def test_the_name_of_the_command_is_enough_when_it_is_on_the_path(environment, tmp_path):
    write_viewer(tmp_path / "empty")
    assert how_to_view(Path("runs/a")) == "view it with: tensorboard --logdir runs/a"


def test_without_tensorboard_the_command_that_installs_it_is_printed(environment):
    label, command = how_to_view(Path("runs/a")).split(": ")
    assert label == "to view it, install TensorBoard"
    assert shlex.split(command) == ["my env/bin/python", "-m", "pip", "install", "tensorboard"]
