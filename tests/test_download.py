"""Downloads end whole, however often they are cut, and nothing else ever gets the file's name."""

import multiprocessing
import random
import threading

import pytest

from dist_ft.models import download
from tests.fileserver import left_in, sha256

CONTENT = bytes(random.Random(0).choices(range(256), k=1 << 20))


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.contents["/a.onnx"] = CONTENT
    server.cuts = [300_000, 0, 400_000]
    download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert (tmp_path / "a.onnx").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["a.onnx"]
    assert server.num_sent == len(CONTENT)
    ranges = [None, "bytes=300000-", "bytes=300000-", "bytes=700000-"]
    assert [asked for _, asked in server.requests] == ranges


def test_a_later_run_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    server.contents["/a.onnx"] = CONTENT
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(download.Failed, match="cut after 300,000 of 1,048,576 bytes"):
        download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert left_in(tmp_path) == ["a.onnx.part"]
    server.cuts, server.num_sent = [], 0
    download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert server.num_sent == len(CONTENT) - 300_000
    assert (tmp_path / "a.onnx").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.contents["/a.onnx"] = CONTENT
    server.has_ranges, server.cuts = False, [300_000]
    download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert (tmp_path / "a.onnx").read_bytes() == CONTENT
    assert server.num_sent == len(CONTENT) + 300_000


@pytest.mark.parametrize(
    "stale", [b"of another version", CONTENT + b"and more", CONTENT[:-9] + b"x" * 9]
)
def test_a_stale_piece_does_not_spoil_the_file(server, tmp_path, stale):
    server.contents["/a.onnx"] = CONTENT
    (tmp_path / "a.onnx.part").write_bytes(stale)
    download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert (tmp_path / "a.onnx").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["a.onnx"]


def test_content_with_another_digest_is_never_kept(server, tmp_path):
    server.contents["/a.onnx"] = b"<html>please sign in</html>"
    with pytest.raises(download.Failed, match="please sign in"):
        download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("status, num_requests", [(403, 1), (503, 3)])
def test_only_passing_refusals_are_asked_again(server, tmp_path, status, num_requests):
    server.contents["/a.onnx"], server.status = CONTENT, status
    with pytest.raises(download.Failed, match=str(status)):
        download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    assert len(server.requests) == num_requests


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SILENCE_S", 0.1)
    gate = threading.Event()
    monkeypatch.setattr(server, "answer", lambda handler: gate.wait(10))
    with pytest.raises(download.Failed, match="timed out"):
        download.obtain(f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    gate.set()


def test_processes_that_want_the_same_file_download_it_once(server, tmp_path):
    server.contents["/a.onnx"] = CONTENT
    job = (f"{server.url}/a.onnx", tmp_path / "a.onnx", sha256(CONTENT))
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=download.obtain, args=job) for _ in range(2)]
    for process in jobs:
        process.start()
    for process in jobs:
        process.join(30)
    assert [process.exitcode for process in jobs] == [0, 0]
    assert (tmp_path / "a.onnx").read_bytes() == CONTENT
    assert server.num_sent == len(CONTENT)
