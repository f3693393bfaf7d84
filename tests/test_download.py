"""models.download, against a real HTTP server on loopback."""

import hashlib
import io
import multiprocessing
import os
import random
import signal
import threading
import zipfile

import pytest

from dist_ft.models import download
from tests.fileserver import sha256

CONTENT = random.Random(0).getrandbits(8 * 2**20).to_bytes(2**20, "little")
PATH, DIGEST = "/folder/a.onnx", sha256(CONTENT)


@pytest.fixture
def target(server, tmp_path):
    server.contents[PATH] = CONTENT
    return tmp_path / "models" / "a.onnx"


def fetch(server, target, digest=DIGEST):
    download.fetch(server.url + PATH, target, digest)


def assert_only(target):
    """The file is complete, and nothing but its lock is next to it."""
    assert target.read_bytes() == CONTENT
    assert sorted(os.listdir(target.parent)) == [target.name, f"{target.name}.lock"]


def assert_nothing(target):
    assert os.listdir(target.parent) == [f"{target.name}.lock"]


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_file_is_downloaded_once(server, target, algorithm):
    for _ in range(2):
        fetch(server, target, hashlib.new(algorithm, CONTENT).hexdigest())
    assert_only(target)
    assert server.requests == [PATH]


def test_an_interrupted_transfer_is_retried(server, target):
    server.cuts = [300_000, 0]
    fetch(server, target)
    assert_only(target)
    assert len(server.requests) == 3


def test_after_three_interrupted_transfers_nothing_is_left(server, target):
    server.cuts = [300_000, 300_000, 300_000]
    with pytest.raises(download.DownloadError, match=PATH):
        fetch(server, target)
    assert_nothing(target)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status, num_requests", [(403, 1), (404, 1), (429, 3), (503, 3)])
def test_only_temporary_server_errors_are_retried(server, target, status, num_requests):
    server.status = status
    with pytest.raises(download.DownloadError, match=str(status)):
        fetch(server, target)
    assert len(server.requests) == num_requests
    assert_nothing(target)


def test_a_wrong_digest_is_rejected_with_what_was_received(server, target):
    server.contents[PATH] = b"<html>please sign in</html>"
    with pytest.raises(download.DownloadError, match="wrong digest.*27 bytes.*please sign in"):
        fetch(server, target)
    assert_nothing(target)
    assert len(server.requests) == 1


def test_a_silent_server_is_not_retried(server, target, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    end = threading.Event()
    requests = []

    def respond(handler):
        requests.append(handler.path)
        end.wait(60)

    monkeypatch.setattr(server, "respond", respond)
    with pytest.raises(download.DownloadError, match="timed out"):
        fetch(server, target)
    end.set()
    assert requests == [PATH]


def zipped(name, content):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return archive.getvalue()


def test_the_member_of_a_zip_archive_is_extracted(server, target):
    server.contents["/a.zip"] = zipped(target.name, CONTENT)
    download.fetch(f"{server.url}/a.zip", target, DIGEST)
    assert_only(target)


@pytest.mark.parametrize(
    "archive",
    [b"<html>moved</html>", zipped("b.onnx", CONTENT), zipped("a.onnx", CONTENT)[:-4000]],
    ids=["no archive", "no such member", "incomplete"],
)
def test_a_wrong_zip_archive_is_rejected(server, target, archive):
    server.contents["/a.zip"] = archive
    with pytest.raises(download.DownloadError, match="not a zip archive that contains a.onnx"):
        download.fetch(f"{server.url}/a.zip", target, DIGEST)
    assert_nothing(target)


def test_two_processes_download_a_file_once(server, target):
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=fetch_from, args=(server.url, target)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert_only(target)
    assert server.requests == [PATH]


def test_a_killed_download_leaves_nothing_to_the_next_one(server, target, monkeypatch):
    is_requested, end = threading.Event(), threading.Event()
    respond = server.respond

    def start_to_respond(handler):
        is_requested.set()
        end.wait(60)

    monkeypatch.setattr(server, "respond", start_to_respond)
    job = multiprocessing.get_context("spawn").Process(target=fetch_from, args=(server.url, target))
    job.start()
    assert is_requested.wait(60)
    os.kill(job.pid, signal.SIGKILL)
    job.join(60)
    end.set()
    assert not target.exists()
    monkeypatch.setattr(server, "respond", respond)
    fetch(server, target)  # the killed process holds no lock any more
    assert_only(target)


def fetch_from(url, target):
    download.fetch(url + PATH, target, DIGEST)
