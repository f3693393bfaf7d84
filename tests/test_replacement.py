"""food5/replacement.py replaces all entries of a folder or none, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from replacement import recover, replacing

from tests.conftest import REPO
from tests.images import read_tree

NAMES = ("table", "test", "train")
NEW = dict.fromkeys(NAMES, b"new")

# Dies in the given move into or out of the folder.
KILLED = """
import os, sys
from pathlib import Path
import tests.test_replacement as tests
os.replace = tests.on_move(int(sys.argv[2]), lambda: os.kill(os.getpid(), 9))
tests.replace_all(Path(sys.argv[1]))
"""


def replace_all(root: Path) -> None:
    with replacing(root, NAMES, ".work-") as temporary:
        for name in NAMES:
            (temporary / name).write_bytes(b"new")


def make(root: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    root.mkdir()
    for name in names:
        (root / name).write_bytes(b"old")
    return read_tree(root)


def on_move(number: int, action) -> object:
    """An os.replace that calls `action` before the given move."""
    moves, move = itertools.count(), os.replace

    def replace(source, target):
        if next(moves) == number:
            action()
        move(source, target)

    return replace


@pytest.mark.parametrize("names", [(), ("train", "test"), NAMES])
def test_an_error_in_any_move_leaves_the_old_content(tmp_path, monkeypatch, names):
    def fail():
        raise OSError(28, "No space left on device")

    for number in range(len(names) + len(NAMES)):
        root = tmp_path / str(number)
        old = make(root, names)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(os, "replace", on_move(number, fail))
            replace_all(root)
        assert read_tree(root) == old
        assert not list(root.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_moves_does_not_stop_them(tmp_path, monkeypatch, number):
    make(tmp_path / "out", NAMES)
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", on_move(4, lambda: os.kill(os.getpid(), number)))
        replace_all(tmp_path / "out")
    assert read_tree(tmp_path / "out") == NEW
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("number", range(6))
def test_recovery_after_a_kill_restores_the_old_content(tmp_path, number):
    root = tmp_path / "out"
    old = make(root, NAMES)
    command = [sys.executable, "-c", KILLED, str(root), str(number)]
    path = os.pathsep.join((str(REPO), str(REPO / "food5")))
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert number == 0 or not (root / "train").exists()
    recover(root, NAMES, ".work-")
    assert read_tree(root) == old
    assert not list(root.glob(".*"))


def test_old_content_that_cannot_be_restored_is_kept_and_its_place_named(tmp_path, monkeypatch):
    def fail(*_):
        monkeypatch.setattr(os, "replace", fail)
        raise OSError(5, "Input/output error")

    root = tmp_path / "out"
    old = make(root, NAMES)
    monkeypatch.setattr(os, "replace", on_move(4, fail))
    with pytest.raises(OSError, match="move its old content back"):
        replace_all(root)
    monkeypatch.undo()
    (temporary,) = root.glob(".work-*")
    assert read_tree(temporary / "old") == old
    recover(root, NAMES, ".work-")
    assert read_tree(root) == old
