"""Downloads a file once per machine: verified, atomic, with retries and a progress bar."""

from __future__ import annotations

import fcntl
import logging
import shutil
import sys
import time
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pooch
import requests
from urllib3.exceptions import ProtocolError

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 4.0  # per address of the server; a lost packet is sent again after 1 and 3 s
READ_TIMEOUT_S = 20.0  # between two packets
ATTEMPTS = 3
RETRY_DELAY_S = 1.0  # doubled after each attempt
CHUNK_BYTES = 2**18
MAX_FILE_BYTES = 2**30  # the largest network of gluon's zoo has 0.6 GB


class DownloadError(Exception):
    """The server did not deliver the file; the message says where and why."""


class NoConnectionError(DownloadError):
    """The server cannot be reached, as without a network."""


def fetch(url: str, path: Path, digest: str) -> None:
    """Downloads a file, or the member path.name of a .zip archive, unless `path` has the digest.

    digest: hexadecimal sha1 (40 digits) or sha256 (64 digits). Of several processes one downloads,
    and the others wait for it. Raises DownloadError, and OSError if the local disk fails.
    """
    with _locked(path):
        if has_digest(path, digest):
            return
        temporary = path.with_name(f".{path.name}.download")
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
        temporary.mkdir()
        try:
            file = temporary / url.rsplit("/", 1)[-1]
            _download(url, file)
            if file.suffix == ".zip":
                file = _unzip(url, file, path.name)
            if not has_digest(file, digest):
                raise DownloadError(f"{url}: wrong digest, not {digest}; {_describe(file)}")
            file.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def has_digest(path: Path, digest: str) -> bool:
    """True if `path` is a file with this hexadecimal sha1 or sha256."""
    algorithm = "sha1" if len(digest) == 40 else "sha256"
    return path.is_file() and pooch.file_hash(str(path), algorithm) == digest


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process of this machine downloads `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "a") as lock:  # stays: removing it would race with waiting processes
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that downloads %s", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(url: str, file: Path) -> None:
    """Downloads to `file`; errors that may pass are retried."""
    download = pooch.HTTPDownloader(
        sys.stderr.isatty(),
        CHUNK_BYTES,
        timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        headers={"User-Agent": "dist_ft"},
        hooks={"response": _check_size},
    )
    for attempt in range(ATTEMPTS):
        try:
            download(url, str(file), None)
            return
        except requests.RequestException as error:
            if attempt == ATTEMPTS - 1 or not _may_pass(error):
                kind = NoConnectionError if _is_unreachable(error) else DownloadError
                raise kind(_reason(url, error)) from error
            logger.warning("%s; trying again", _reason(url, error))
        time.sleep(RETRY_DELAY_S * 2**attempt)


def _check_size(response: requests.Response, **_: object) -> None:
    """Announces a download before it starts, unless it is too large."""
    if not response.ok or response.is_redirect:
        return
    size = int(response.headers.get("Content-Length", 0))
    if size > MAX_FILE_BYTES:
        raise DownloadError(f"{response.url}: {size:,} bytes, more than {MAX_FILE_BYTES:,}")
    logger.info("downloading %s (%.0f MB)", response.url.split("?")[0], size / 1e6)


def _is_unreachable(error: requests.RequestException) -> bool:
    """True if no connection was made; a refused certificate is no such case."""
    return isinstance(error, requests.ConnectionError) and not (
        isinstance(error, requests.exceptions.SSLError) or _was_interrupted(error)
    )


def _may_pass(error: requests.RequestException) -> bool:
    """False if the server refuses or does not respond: the user would only wait longer."""
    if error.response is not None:
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return _was_interrupted(error)


def _was_interrupted(error: requests.RequestException) -> bool:
    return any(isinstance(cause, ProtocolError) for cause in error.args)


def _reason(url: str, error: requests.RequestException) -> str:
    """The URL and the innermost reason, without the layers of requests and urllib3 around it."""
    if error.response is not None:
        return f"{url}: {error.response.status_code} {error.response.reason}"
    cause = error.args[0] if error.args else error
    return f"{url}: {getattr(cause, 'reason', cause)}"


def _unzip(url: str, archive: Path, member: str) -> Path:
    """Extracts one member, and no more bytes than its entry says."""
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(member).file_size
            if size > MAX_FILE_BYTES:
                raise DownloadError(f"{url}: {member} has {size:,} bytes")
            return Path(opened.extract(member, archive.parent))
    # RuntimeError: the member is encrypted, or compressed by an unknown method
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise DownloadError(
            f"{url}: not a zip archive that contains {member} ({error}); {_describe(archive)}"
        ) from error


def _describe(file: Path) -> str:
    """The size and first bytes, which show what a server sent instead."""
    with open(file, "rb") as opened:
        return f"received {file.stat().st_size:,} bytes that start with {opened.read(40)!r}"
