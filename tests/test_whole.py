"""whole: what is written is the file or nothing, and nothing else is harmed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dist_ft import files
from dist_ft.errors import UserError


def write(path, text="new"):
    with files.file(path, "--out") as beside:
        beside.write_text(text)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), files.file(tmp_path / "a", "--out") as beside:
        beside.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_folders_on_the_way_are_made_and_long_names_taken(tmp_path):
    write(tmp_path / "b" / "c" / ("中" * 85))
    assert (tmp_path / "b" / "c" / ("中" * 85)).read_text() == "new"


def test_a_link_stays_a_link_to_the_new_file(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_text("old")
    (tmp_path / "link").symlink_to("there/real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "real").read_text() == "new"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    heard = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()))
    reader.start()
    write(tmp_path / "pipe")
    reader.join(20)
    assert heard == ["new"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_written_is_told_with_its_flag(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path, "is a folder"), (tmp_path / "file" / "x", "cannot be written")):
        with pytest.raises(UserError, match=f"^--out {path}: {reason}"):
            write(path)
        with pytest.raises(UserError, match=f"^--out {path}: {reason}"):
            files.check_file(path, "--out")
    with pytest.raises(UserError, match=r"No space left.*choose another"):
        write(Path("/dev/full"), "x" * 100_000)


def test_a_folder_is_taken_where_it_is_empty_also_by_a_name_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="is there already"), files.folder(Path(".."), "--to"):
        pass
    with files.folder(tmp_path / "empty", "--to") as beside:
        (beside / "part").write_text("new")
    assert (tmp_path / "empty" / "part").read_text() == "new"
