"""training.checkpoint: a full disk or a killed process leaves older checkpoints intact."""

import os
import shutil
import subprocess
import sys

import mxnet as mx
import pytest

from dist_ft.errors import UserError
from dist_ft.training import checkpoint
from dist_ft.training.state import TrainingState


def save(run, step, size=50):
    net = {"weight": mx.nd.full((size,), step)}
    return checkpoint.save(run, TrainingState(step=step), net, {}, keep=10)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("needs permission to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_at_any_byte_leaves_older_checkpoints_intact(small_disk):
    save(small_disk, 1, size=10_000)
    before = {path.name: path.read_bytes() for path in small_disk.rglob("step-00000001/*")}
    free = os.statvfs(small_disk)
    free_bytes, refused = free.f_bavail * free.f_bsize, 0
    for left in range(0, 68_000, 4096):
        (small_disk / "filler").write_bytes(bytes(free_bytes - left))
        try:
            save(small_disk, 2, size=10_000)
        except UserError as error:
            refused += 1
            assert "step-00000002: cannot be written" in str(error)
            assert "free some space" in str(error)
            assert os.listdir(small_disk / "checkpoints") == ["step-00000001"]
        else:
            assert checkpoint.latest(small_disk).step == 2
            shutil.rmtree(small_disk / "checkpoints" / "step-00000002")
        found = checkpoint.latest(small_disk)
        assert {path.name: path.read_bytes() for path in found.path.iterdir()} == before
        (small_disk / "filler").unlink()
    assert 9 < refused < 17  # the 10,000 floats take ten of the pages that are needed


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"step-00000001: cannot be written \(Not a directory"):
        save(tmp_path / "run", 1)


# Saves step 2 over an older one, in a child that exits at the Nth system call that Python audits.
SAVE_AND_DIE = """
import os, sys
from pathlib import Path
import mxnet as mx
from dist_ft.training import checkpoint
from dist_ft.training.state import TrainingState
mx.nd.waitall()
run = Path(sys.argv[1])
OLD, NEW = 0.25, 0.75

def save(accuracy):
    state = TrainingState(step=2, selection_accuracy=accuracy)
    return checkpoint.save(run, state, {"w": mx.nd.ones(5)}, {}, keep=1)

save(OLD)
number, status = 0, None
while status != 0:
    number += 1
    child = os.fork()
    if child == 0:
        seen = 0
        def die(event, args):
            global seen
            seen += event.split(".")[0] in ("os", "open", "shutil")
            if seen == number:
                os._exit(9)
        sys.addaudithook(die)
        save(NEW)
        os._exit(0)
    status = os.waitpid(child, 0)[1] >> 8
    found = checkpoint.latest(run)
    word = {None: "none", OLD: "old", NEW: "new"}[found and found.accuracy]
    print(number, status, word, flush=True)
    if status != 0:
        save(OLD)
    assert os.listdir(run / "checkpoints") == ["step-00000002"]
"""


@pytest.mark.jobs
def test_a_process_killed_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path):
    command = [sys.executable, "-c", SAVE_AND_DIE, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    *killed, finished = [line.split() for line in ended.stdout.splitlines()]
    assert len(killed) > 15
    assert {status for _, status, _ in killed} == {"9"}
    assert {found for _, _, found in killed} == {"old", "new"}  # and never none
    assert killed[0][2] == "old"
    assert finished[1:] == ["0", "new"]
