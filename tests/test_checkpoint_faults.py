"""checkpoint: a full disk, and a process that dies, leave the earlier ones whole."""

import os
import shutil
import subprocess
import sys

import mxnet as mx
import pytest

from dist_ft.errors import UserError
from dist_ft.training import checkpoint


def save(run, step, size=50):
    net = {"weight": mx.nd.full((size,), step)}
    return checkpoint.save(run, {"step": step}, net, {"w.0": mx.nd.full((5,), step)}, keep=10)


def steps(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_at_any_point_leaves_the_earlier_ones_whole(small_disk):
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
            assert steps(small_disk) == ["step-00000001"]
        else:
            assert checkpoint.latest(small_disk).step == 2
            shutil.rmtree(small_disk / "checkpoints" / "step-00000002")
        found = checkpoint.latest(small_disk)
        assert {path.name: path.read_bytes() for path in found.path.iterdir()} == before
        (small_disk / "filler").unlink()
    assert 9 < refused < 17  # 10,000 numbers are ten pages; with all seventeen it succeeds


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"step-00000001: cannot be written \(Not a directory"):
        save(tmp_path / "run", 1)


# Saves step 2 on top of an older 2, and dies at the Nth thing that Python asks of the system.
DIES = """
import os, sys
from pathlib import Path
import mxnet as mx
from dist_ft import checkpoint
mx.nd.waitall()
run = Path(sys.argv[1])

def put(step, word):
    state = {"step": step, "word": word}
    return checkpoint.save(run, state, {"w": mx.nd.ones(5)}, {}, keep=1)

put(2, "old")
number = 0
while True:
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
        put(2, "new")
        os._exit(0)
    status = os.waitpid(child, 0)[1] >> 8
    found = checkpoint.latest(run)
    others = [path.name for path in (run / "checkpoints").glob("step-*")]
    print(number, status, found and found.state["word"], len(others), flush=True)
    if status == 0:
        break
    put(2, "old")
    assert os.listdir(run / "checkpoints") == ["step-00000002"]
"""


def test_a_process_that_dies_at_any_moment_leaves_the_old_or_the_new_one(tmp_path):
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert made.returncode == 0, made.stderr
    table = [line.split() for line in made.stdout.splitlines()]
    assert len(table) > 15
    assert {status for _, status, _, _ in table[:-1]} == {"9"}
    words = [word for _, _, word, _ in table]
    assert set(words) == {"old", "new"}  # and never None
    assert words[0] == "old" and table[-1][1:] == ["0", "new", "1"]
