"""A file on a web server, of which only what is read is downloaded, and kept on disk.

An interrupted download continues where it stopped, also in another process.
"""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path
from typing import Callable, List, Tuple, TypeVar

import numpy as np
import requests

from dist_ft.models.download import DownloadError

BLOCK_BYTES = 2**14  # downloaded as a whole
SAVED_BYTES = 2**22  # received before they are synced to disk, and counted as progress
TIMEOUTS_S = (4.0, 20.0)  # to connect, and between two packets
ATTEMPTS = 4  # without progress
RETRY_DELAY_S = 1.0  # doubled after each attempt
TEMPORARY_STATUS = (408, 429, 500, 502, 503, 504)

Ranges = List[Tuple[int, int]]  # of bytes: the first, and the one after the last
Result = TypeVar("Result")


class RangedFile(io.RawIOBase):
    """Reads `url`. Its blocks are written to a sparse file, `path`; PATH.blocks has one byte for
    each, which is 1 if the block is on disk.

    Raises DownloadError if the server does not deliver, OSError if the disk fails.
    """

    def __init__(self, url: str, path: Path):
        self.url = url
        self._position = 0
        self._session = requests.Session()
        self.size, self.supports_ranges = self._retry(self._probe)
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = path.with_name(f"{path.name}.blocks")
        if not (blocks.exists() and path.exists() and path.stat().st_size == self.size):
            for new, size in ((blocks, self._num_blocks(self.size)), (path, self.size)):
                new.write_bytes(b"")
                os.truncate(new, size)
        self._file = open(path, "r+b")  # noqa: SIM115 - close() closes it
        self._on_disk = np.memmap(blocks, np.uint8, "r+")

    def missing(self, ranges: Ranges) -> Ranges:
        """The blocks of `ranges` that are not on disk, as few ranges as possible."""
        is_needed = np.zeros(len(self._on_disk), bool)
        for start, end in ranges:
            is_needed[start // BLOCK_BYTES : self._num_blocks(end)] = True
        blocks = np.flatnonzero(is_needed & (self._on_disk == 0))
        runs = np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1)
        bounds = [(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
        return [(a * BLOCK_BYTES, min(b * BLOCK_BYTES, self.size)) for a, b in bounds]

    def fetch(self, ranges: Ranges, progress: Callable[[int], object] = lambda _: None) -> None:
        """Downloads what is missing of `ranges`. progress: is called with numbers of bytes."""
        while self.missing(ranges):
            self._retry(lambda: self._download(*self.missing(ranges)[0], progress))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        end = min(self._position + len(buffer), self.size)
        if end <= self._position:
            return 0
        self.fetch([(self._position, end)])
        self._file.seek(self._position)
        num_bytes = self._file.readinto(memoryview(buffer)[: end - self._position])
        self._position += num_bytes
        return num_bytes

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):  # else it could not be opened
            self._file.close()
        self._session.close()
        super().close()

    @staticmethod
    def _num_blocks(num_bytes: int) -> int:
        return -(-num_bytes // BLOCK_BYTES)

    def _request(self, start: int, end: int) -> requests.Response:
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        response = self._session.get(self.url, headers=headers, stream=True, timeout=TIMEOUTS_S)
        response.raise_for_status()
        return response

    def _probe(self) -> tuple[int, bool]:
        """The size of the file, and whether the server supports ranges."""
        with self._request(0, 1) as response:
            _, size = _content_range(response)
            if size is None:
                raise DownloadError(f"{self.url}: the server does not say how large the file is")
            return size, response.status_code == 206

    def _download(self, start: int, end: int, progress: Callable[[int], object]) -> None:
        """Requests a range once. Raises RequestException if nothing of it arrives."""
        num_missing = self._num_missing()
        try:
            with self._request(start, end) as response:
                first, size = _content_range(response)
                if size != self.size or first not in (start, 0):
                    raise DownloadError(f"{self.url}: is {size} bytes now, not {self.size}")
                self._store(response, first, progress)
        except requests.RequestException:
            if self._num_missing() == num_missing:
                raise
        else:
            if self._num_missing() == num_missing:
                raise requests.ConnectionError("the server sent less than a block")

    def _num_missing(self) -> int:
        return int(np.count_nonzero(self._on_disk == 0))

    def _store(
        self, response: requests.Response, start: int, progress: Callable[[int], object]
    ) -> None:
        """Writes the body of a response to disk, from the byte `start` on."""
        end = start
        try:
            for data in response.iter_content(BLOCK_BYTES):
                self._file.seek(end)
                end += self._file.write(data)
                if end - start >= SAVED_BYTES:
                    start = self._save(start, end, progress)
        finally:
            self._save(start, end, progress)

    def _save(self, start: int, end: int, progress: Callable[[int], object]) -> int:
        """Records the whole blocks of a range as being on disk; returns their end."""
        self._file.flush()
        os.fsync(self._file.fileno())  # before the record, which may reach the disk by itself
        last = len(self._on_disk) if end == self.size else end // BLOCK_BYTES
        part = self._on_disk[start // BLOCK_BYTES : last]
        progress(min(int(np.count_nonzero(part == 0)) * BLOCK_BYTES, end - start))
        part[:] = 1
        return min(last * BLOCK_BYTES, self.size)

    def _retry(self, action: Callable[[], Result]) -> Result:
        """Repeats an action as long as its errors may pass."""
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except requests.RequestException as error:
                response = error.response
                may_pass = response is None or response.status_code in TEMPORARY_STATUS
                if attempt == ATTEMPTS - 1 or not may_pass:
                    raise DownloadError(f"{self.url}: {reason(error)}") from error
            time.sleep(RETRY_DELAY_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def reason(error: requests.RequestException) -> str:
    """The innermost reason, without the layers of requests and urllib3 around it."""
    if error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    cause = error.args[0] if error.args else error
    # urllib3 begins with the connection: HTTPSConnection(host='huggingface.co', port=443): ...
    return str(getattr(cause, "reason", cause)).split("): ", 1)[-1]


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """The first byte of the body in the file, and the size of the file, None if it is unknown."""
    if response.status_code == 206:
        header = response.headers.get("Content-Range", "")
        numbers = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", header)
        return (int(numbers[1]), int(numbers[2])) if numbers else (0, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None
