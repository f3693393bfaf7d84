"""data.pixel_file and data.locked_files: complete files only, whatever happens to their writers."""

import os
import shutil
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import psutil
import pytest

from dist_ft.data import locked_files, pixel_file
from dist_ft.data.pixel_file import PixelFile
from tests.conftest import ENVIRONMENT

# O_DIRECTORY fails with the error of file systems that have no O_TMPFILE.
WITHOUT_TMPFILE = "os.O_TMPFILE = os.O_DIRECTORY"
# Writes five images to argv[1]; prints "started" at the fourth, and waits for a line of input.
WRITER = """
import os, sys
import numpy as np
from pathlib import Path
from dist_ft.data import locked_files, pixel_file

def load(index):
    if index == 3:
        print("started", flush=True)
        sys.stdin.readline()
    return np.full((200, 200, 3), index, np.uint8)

{}
path = Path(sys.argv[1])
locked_files.remove_abandoned(path.parent, ".*.pack.*")
pixel_file.write(path, "key", 5, load, 1)
"""
AS_PID_1 = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
needs_unshare = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*AS_PID_1, "true"], stderr=-3).returncode != 0,
    reason="cannot create a PID namespace (unshare)",
)


@pytest.fixture
def start_writer():
    """Starts WRITER, and kills it at the end of the test."""
    writers = []

    def start(path, setup="", prefix=()):
        command = [*prefix, sys.executable, "-c", WRITER.format(setup), str(path)]
        writer = subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        writers.append(writer)
        return writer

    yield start
    for writer in writers:
        writer.kill()
        writer.communicate()


def finish(writer):
    writer.communicate("\n", timeout=60)
    return writer.returncode == 0


def noise(index):
    return np.random.RandomState(index).randint(0, 256, (index % 5 + 1, 3, 3)).astype(np.uint8)


@pytest.mark.parametrize("num_images, num_workers", [(0, 1), (90, 1), (90, 4)])
def test_a_file_returns_the_pixels_that_were_written(tmp_path, num_images, num_workers):
    pixel_file.write(tmp_path / "p", "key", num_images, noise, num_workers)
    file = PixelFile(tmp_path / "p", "key")
    assert len(file) == num_images
    for index in range(num_images):
        assert (file.image(index).pixels() == noise(index)).all()


def test_a_file_is_rejected_if_its_key_differs_or_if_it_is_truncated_anywhere(tmp_path):
    path = tmp_path / "p"
    pixel_file.write(path, "key", 3, noise, 1)
    with pytest.raises(ValueError, match="other images"):
        PixelFile(path, "another")
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError):
            PixelFile(path, "key")


def test_an_error_leaves_no_file_and_no_thread(tmp_path):
    def failing(index):
        if index == 40:
            raise ZeroDivisionError
        return noise(index)

    with pytest.raises(ZeroDivisionError):
        pixel_file.write(tmp_path / "p", "key", 90, failing, 3)
    assert list(tmp_path.iterdir()) == []
    assert not any(thread.name.startswith("pack") for thread in threading.enumerate())


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Neither when a file is written, nor when it is opened."""
    loaded, num_alive = [], []

    def load(index):
        pixels = np.ones((600, 600, 3), np.uint8)
        loaded.append(weakref.ref(pixels))
        num_alive.append(sum(image() is not None for image in loaded))
        return pixels

    pixel_file.write(tmp_path / "p", "key", 100, load, 2)
    assert max(num_alive) <= 2 * pixel_file.MAX_WAITING + 4
    before = psutil.Process().memory_info().rss
    file = PixelFile(tmp_path / "p", "key")
    assert file.num_bytes > 100e6
    assert psutil.Process().memory_info().rss - before < 20e6


@needs_unshare
@pytest.mark.parametrize("setup", ["", WITHOUT_TMPFILE])
def test_two_containers_may_write_the_same_file_at_once(tmp_path, start_writer, setup):
    """In each container the process has the number 1."""
    path = tmp_path / "it.pack"
    writers = [start_writer(path, setup, prefix=AS_PID_1) for _ in range(2)]
    assert [writer.stdout.readline() for writer in writers] == ["started\n"] * 2
    assert len(list(tmp_path.iterdir())) == (2 if setup else 0)
    assert finish(writers[0])
    assert len(PixelFile(path, "key")) == 5
    assert finish(writers[1])
    assert PixelFile(path, "key").image(4).pixels().min() == 4
    assert list(tmp_path.iterdir()) == [path]


def test_the_next_writer_removes_the_temporary_file_of_a_killed_one(tmp_path, start_writer):
    killed = start_writer(tmp_path / "it.pack", WITHOUT_TMPFILE)
    assert killed.stdout.readline() == "started\n"
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 1
    assert finish(start_writer(tmp_path / "another.pack"))
    assert [file.name for file in tmp_path.iterdir()] == ["another.pack"]


def test_temporary_files_of_another_host_are_kept_for_a_day(tmp_path):
    file = tmp_path / ".a.pack.far.1"
    file.write_text("")
    locked_files.remove_abandoned(tmp_path, ".*.pack.*")
    assert file.exists()
    os.utime(file, (time.time() - 90_000,) * 2)
    locked_files.remove_abandoned(tmp_path, ".*.pack.*")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setup", ["", WITHOUT_TMPFILE])
def test_the_permissions_of_a_file_follow_the_umask(tmp_path, start_writer, setup):
    assert finish(start_writer(tmp_path / "it.pack", f"{setup}\nos.umask(0o027)"))
    assert (tmp_path / "it.pack").stat().st_mode & 0o777 == 0o640
