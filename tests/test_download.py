"""models.download, against a real HTTP server on loopback."""

import hashlib
import io
import multiprocessing
import os
import random
import signal
import time
import zipfile

import pytest

from dist_ft.models import download

CONTENT = random.Random(0).getrandbits(8 * 2**20).to_bytes(2**20, "little")
PATH, DIGEST = "/folder/a.onnx", hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(server, tmp_path):
    server.contents[PATH] = CONTENT
    return tmp_path / "models" / "a.onnx"


def fetch(url, target, digest=DIGEST):
    download.fetch(url + PATH, target, digest)


def assert_only(target):
    """The file is complete, and nothing but its lock is next to it."""
    assert target.read_bytes() == CONTENT
    assert sorted(os.listdir(target.parent)) == [target.name, f"{target.name}.lock"]


def test_a_file_is_downloaded_once(server, target):
    for digest in (DIGEST, hashlib.sha1(CONTENT).hexdigest()):
        fetch(server.url, target, digest)
    assert_only(target)
    assert server.requests == [PATH]


def test_an_interrupted_transfer_is_retried(server, target):
    server.cuts = [300_000, 0]
    fetch(server.url, target)
    assert_only(target)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "broken, num_requests, message",
    [
        ({"cuts": [300_000] * 3}, 3, PATH),
        ({"status": 403}, 1, "403"),
        ({"status": 404}, 1, "404"),
        ({"status": 429}, 3, "429"),
        ({"status": 503}, 3, "503"),
        ({"contents": {PATH: b"<html>sign in"}}, 1, "wrong digest.*13 bytes.*<html>sign in"),
    ],
)
def test_only_temporary_errors_are_retried(server, target, broken, num_requests, message):
    vars(server).update(broken)
    with pytest.raises(download.DownloadError, match=message):
        fetch(server.url, target)
    assert len(server.requests) == num_requests
    assert os.listdir(target.parent) == [f"{target.name}.lock"]


def zipped(name, content=CONTENT):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return archive.getvalue()


def with_size(archive, size):
    """The archive, whose directory says that its member has `size` bytes."""
    entry = archive.rindex(b"PK\x01\x02")  # the member's entry in the central directory
    return archive[: entry + 24] + size.to_bytes(4, "little") + archive[entry + 28 :]


def encrypted(archive):
    """The archive with the flag of encryption in its directory."""
    entry = archive.rindex(b"PK\x01\x02")
    return archive[: entry + 8] + b"\x01" + archive[entry + 9 :]


@pytest.mark.parametrize(
    "archive",
    [
        b"<html>moved</html>",
        zipped("b.onnx"),
        zipped("../a.onnx"),
        zipped("a.onnx")[:-4000],
        encrypted(zipped("a.onnx")),
        with_size(zipped("a.onnx"), 1000),
    ],
    ids=["no archive", "other member", "other folder", "incomplete", "encrypted", "wrong size"],
)
def test_a_wrong_zip_archive_is_rejected(server, target, archive):
    server.contents["/a.zip"] = archive
    with pytest.raises(download.DownloadError, match="not a zip archive that contains a.onnx"):
        download.fetch(f"{server.url}/a.zip", target, DIGEST)
    assert os.listdir(target.parent) == [f"{target.name}.lock"]


def test_a_file_that_is_too_large_is_not_stored(server, target, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE_BYTES", len(CONTENT) - 1)
    server.contents["/a.zip"] = zipped(target.name)
    assert len(server.contents["/a.zip"]) > len(CONTENT)  # random bytes do not shrink
    for url in (server.url + PATH, f"{server.url}/a.zip"):
        with pytest.raises(download.DownloadError, match=f"bytes, more than {len(CONTENT) - 1:,}"):
            download.fetch(url, target, DIGEST)
    assert os.listdir(target.parent) == [f"{target.name}.lock"]


def test_a_member_that_grows_too_large_is_not_extracted(server, target, monkeypatch):
    server.contents["/a.zip"] = zipped(target.name, bytes(10**6))
    monkeypatch.setattr(download, "MAX_FILE_BYTES", len(server.contents["/a.zip"]))
    with pytest.raises(download.DownloadError, match="a.onnx has 1,000,000 bytes"):
        download.fetch(f"{server.url}/a.zip", target, DIGEST)
    assert os.listdir(target.parent) == [f"{target.name}.lock"]


def test_a_silent_server_is_not_retried(server, target, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.1)
    server.may_respond.clear()
    with pytest.raises(download.DownloadError, match="timed out"):
        fetch(server.url, target)
    assert server.requests == [PATH]


def start_fetch(server, target):
    job = multiprocessing.get_context("spawn").Process(target=fetch, args=(server.url, target))
    job.start()
    return job


def test_two_processes_download_a_file_once(server, target):
    jobs = [start_fetch(server, target) for _ in range(2)]
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert_only(target)
    assert server.requests == [PATH]


def test_a_killed_download_leaves_nothing_to_the_next_one(server, target):
    server.may_respond.clear()
    job = start_fetch(server, target)
    while job.is_alive() and not server.requests:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.join(60)
    server.may_respond.set()
    assert not target.exists()
    fetch(server.url, target)  # the killed process holds no lock any more
    assert_only(target)
