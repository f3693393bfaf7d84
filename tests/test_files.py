"""Files are written atomically, and errors name the flag and the remedy."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from dist_ft import files
from dist_ft.errors import UserError


def write(path, text="new"):
    with files.output_file(path, "--out") as temporary:
        temporary.write_text(text)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), files.output_file(tmp_path / "a", "--out") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_parent_folders_are_created_and_long_names_accepted(tmp_path):
    write(tmp_path / "b" / "c" / ("中" * 85))
    assert (tmp_path / "b" / "c" / ("中" * 85)).read_text() == "new"


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "real").write_text("old")
    (tmp_path / "link").symlink_to("target/real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target" / "real").read_text() == "new"


def test_a_pipe_is_written_in_place(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    write(tmp_path / "pipe")
    reader.join(20)
    assert received == ["new"]
    assert (tmp_path / "pipe").is_fifo()


def test_an_unwritable_path_is_reported_with_its_flag(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "file" / "x", "cannot be written")):
        with pytest.raises(UserError, match=f"^--out {path}: {reason}"):
            write(path)
        with pytest.raises(UserError, match=f"^--out {path}: {reason}"):
            files.check_output_file(path, "--out")
    with pytest.raises(UserError, match=r"No space left.*choose another"):
        write(Path("/dev/full"), "x" * 100_000)


def test_an_output_folder_must_be_new_or_empty(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="already exists"), files.output_folder(Path(".."), "--to"):
        pass
    with files.output_folder(tmp_path / "empty", "--to") as temporary:
        (temporary / "part").write_text("new")
    assert (tmp_path / "empty" / "part").read_text() == "new"


def test_an_existing_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("old", "new"):
        with files.atomic_folder(tmp_path / "folder") as temporary:
            (temporary / text).write_text(text)
    assert os.listdir(tmp_path / "folder") == ["new"]
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "half").write_text("")
        raise RuntimeError
    assert os.listdir(tmp_path / "folder") == ["new"]
    assert os.listdir(tmp_path) == ["folder"]


def test_sha256_is_that_of_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 2**20)
    assert files.sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 2**20).hexdigest()
