"""Fetching a file: resumed where it was cut, verified, whole or absent, with visible progress."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Any, Iterator

from tqdm import tqdm

SILENCE_S = 20.0  # the longest wait for a connection or for the next bytes
TRIES = 3  # in a row without a new byte
PAUSE_S = 0.5  # before the second try; doubled before each further one
CHUNK_BYTES = 1 << 18
LINE_EVERY_S = 5.0


class Failed(Exception):
    """The server does not hand the file over: where, and why; is_passing: another try may help."""

    def __init__(self, message: str, is_passing: bool = True):
        super().__init__(message)
        self.is_passing = is_passing


def obtain(url: str, path: Path, sha: str) -> None:
    """Put the file at url, or the member path.name of the .zip at url, to path.

    sha: the hexadecimal sha1 or sha256 of what path shall hold; nothing else gets that name. One
    process at a time downloads a path, and the others find it done.
    Raises Failed for the network's and the server's faults; OSError for those of the local disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(url.rsplit("/", 1)[-1] + ".part")
    with open(f"{path}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if has_digest(path, sha):
            return
        is_resumed = part.exists()
        fetch(url, part)
        problem = _accept(part, path, sha)
        if problem and is_resumed:  # an earlier run's piece may be of another version of the file
            fetch(url, part)
            problem = _accept(part, path, sha)
    if problem:
        raise Failed(f"{url}: {problem}", is_passing=False)


def _accept(part: Path, path: Path, sha: str) -> str | None:
    """Use up a complete part: give its content the name path and return None, or what is wrong."""
    whole = path.with_name(path.name + ".whole")
    try:
        if part.name.endswith(".zip.part"):
            with zipfile.ZipFile(str(part)) as archive, open(str(whole), "wb") as file:
                shutil.copyfileobj(archive.open(path.name), file)
            part.unlink()
        else:
            os.replace(str(part), str(whole))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        problem = f"no zip archive with {path.name} in it ({error}){_beginning(part)}"
        part.unlink()
        return problem
    if not has_digest(whole, sha):
        problem = f"not the file with the digest {sha}{_beginning(whole)}"
        whole.unlink()
        return problem
    with open(str(whole), "rb+") as file:
        os.fsync(file.fileno())
    os.replace(str(whole), str(path))
    return None


def _beginning(path: Path) -> str:
    with open(str(path), "rb") as file:
        return f": {path.stat().st_size:,} bytes that begin with {file.read(40)!r}"


def has_digest(path: Path, sha: str) -> bool:
    """Whether path is a file of that hexadecimal sha1 (40 digits) or sha256 (64)."""
    if not path.is_file():
        return False
    state = hashlib.new("sha1" if len(sha) == 40 else "sha256")
    with open(str(path), "rb") as file:
        for data in iter(lambda: file.read(CHUNK_BYTES), b""):
            state.update(data)
    return state.hexdigest() == sha


def fetch(url: str, part: Path) -> None:
    """Append to part what it lacks of url, until it is complete.

    What was fetched stays in part when it fails, for the next call to go on with; whether that is
    still the same file only a digest can tell, and that is the caller's to check.
    Raises Failed for the network's and the server's faults; OSError for those of the local disk.
    """
    tries = 0
    while True:
        before = _size(part)
        try:
            return _append(url, part)
        except Failed as error:
            tries = 1 if _size(part) > before else tries + 1
            if tries == TRIES or not error.is_passing:
                raise
        time.sleep(PAUSE_S * 2 ** (tries - 1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(url: str, part: Path) -> None:
    """One request for the rest of url, which has to reach its last byte."""
    start = _size(part)
    with _ask(url, start) as response:
        if response.getcode() == 416:  # part is as long as the file or longer: no piece of it
            part.unlink()
            raise Failed(f"{url}: has no byte {start:,}")
        if _first_byte(response) != start:
            start = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with open(str(part), "r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            for data in _told(_chunks(url, response), url.rsplit("/", 1)[-1], start, total):
                file.write(data)
                done += len(data)
    if total is not None and done < total:
        raise Failed(f"{url}: cut after {done:,} of {total:,} bytes")


def _ask(url: str, start: int) -> Any:
    """The server's answer to a request for the bytes of url from start: 200, 206 or 416."""
    request = urllib.request.Request(url, headers={"User-Agent": "dist_ft"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urllib.request.urlopen(request, timeout=SILENCE_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        raise Failed(f"{url}: {error}", error.code in (408, 429) or error.code >= 500) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Where no host answers, asking again only makes the user wait.
        is_silent = reason is not error and isinstance(reason, (socket.timeout, socket.gaierror))
        raise Failed(f"{url}: {reason}", not is_silent) from error


def _first_byte(response: Any) -> int:
    """Where the answer begins: at 100 for 'Content-Range: bytes 100-199/200', else at 0."""
    words = response.headers.get("Content-Range", "").replace("-", " ").split()
    return int(words[1]) if response.getcode() == 206 and len(words) > 1 else 0


def _chunks(url: str, response: Any) -> Iterator[bytes]:
    while True:
        try:
            data = response.read(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"{url}: {error}") from error
        if not data:
            return
        yield data


def _told(chunks: Iterator[bytes], name: str, start: int, total: int | None) -> Iterator[bytes]:
    """Pass chunks on and show how far they are: by a bar on a terminal, by lines in a log."""
    is_log = not sys.stderr.isatty()
    of_total = f" of {total / 1e6:.1f}" if total else ""
    told_at = time.monotonic()
    with tqdm(
        desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=is_log
    ) as bar:
        for data in chunks:
            yield data
            start += len(data)
            bar.update(len(data))
            if is_log and time.monotonic() - told_at > LINE_EVERY_S:
                told_at = time.monotonic()
                print(f"{name}: {start / 1e6:.1f}{of_total} MB", file=sys.stderr, flush=True)
