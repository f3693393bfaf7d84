"""Downloads Food-101: parquet files from the Hugging Face hub, or else the original archive."""

from __future__ import annotations

import math
import os
import queue
import shutil
import sys
import threading
from pathlib import Path
from typing import Sequence

import food101
import pooch
import requests
from food101 import Lists
from ranged_file import RangedFile, Ranges, reason
from tqdm import tqdm

from dist_ft.errors import Unavailable, UserError
from dist_ft.models.download import DownloadError

# The revision that added the parquet files; the repository's current one may differ.
REVISIONS = ("1ac27ab4707a642b84c229d077056d0f25a62fa7", "main")
HUB = "https://huggingface.co"
ARCHIVE = "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
ARCHIVE_MD5 = "85eeb15f3717b99a5da872d97d918f87"
NETWORK_TIMEOUT_S = 4.0  # within which a server has to respond
INTERRUPTED = 75  # exit status: EX_TEMPFAIL of sysexits.h
LICENSE = """\
Food-101's pictures come from Foodspotting and belong to the people who took them. They may be used
within scientific fair use; anything else has to be agreed with the owners (food5/README.md)."""


def download(
    classes: Sequence[str], cache: Path, target: Path, max_mb: float = math.inf
) -> tuple[str, Lists]:
    """Downloads the images of these classes (none: all) to target/CLASS/NAME.

    cache: folder that keeps an interrupted download; max_mb: the largest download to start. Returns
    what was downloaded, and the lists. Raises UserError if a class does not exist or a started
    download fails, and Unavailable if no server delivers, or only more than max_mb. The environment
    variable HF_ENDPOINT names a mirror of the hub, DIST_FT_FOOD101_URL the URL of a copy of the
    archive.
    """
    try:
        return _from_hub(classes, cache, target, max_mb)
    except DownloadError as error:
        failure = str(error)
    try:
        return _from_archive(classes, cache, target, failure, max_mb)
    except DownloadError as error:
        raise Unavailable(f"Food-101 cannot be downloaded: {failure}; {error}") from error


def _from_hub(
    classes: Sequence[str], cache: Path, target: Path, max_mb: float
) -> tuple[str, Lists]:
    try:
        import parquet_files
    except ImportError as error:
        raise DownloadError(
            f"a download of single classes needs pyarrow ({error}); pip install 'dist-ft[parquet]'"
        ) from error
    root = f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/datasets/ethz/food101/resolve"
    _check_reachable(root)
    failures = []
    for revision in REVISIONS:
        url, folder = f"{root}/{revision}", cache / revision
        try:
            parts = parquet_files.open_parts(url, folder, classes)
        except DownloadError as error:
            failures.append(str(error))
            continue
        _transfer(url, [(part.remote, part.ranges) for part in parts], max_mb)
        try:
            return url, parquet_files.unpack(parts, target)
        except DownloadError:  # damaged on the server or on disk
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            raise
    raise DownloadError(failures[0])


def _from_archive(
    classes: Sequence[str], cache: Path, target: Path, failure: str, max_mb: float
) -> tuple[str, Lists]:
    """failure: why the hub cannot be used."""
    url = os.environ.get("DIST_FT_FOOD101_URL", ARCHIVE)
    _check_reachable(url)
    path = cache / "food-101.tar.gz"
    remote = RangedFile(url, path)
    print(f"{failure}; the original archive is next", flush=True)
    _transfer(url, [(remote, [(0, remote.size)])], max_mb)
    if pooch.file_hash(str(path), "md5") != ARCHIVE_MD5:
        path.unlink()
        raise DownloadError(f"{url}: wrong digest, not md5 {ARCHIVE_MD5}; run this again")
    return url, food101.unpack(path, classes, target)


def _transfer(url: str, files: Sequence[tuple[RangedFile, Ranges]], max_mb: float) -> None:
    """Announces and downloads what is missing.

    Raises DownloadError if that is more than max_mb, and UserError if it is interrupted.
    """
    parts = [(start, end) for file, ranges in files for start, end in file.missing(ranges)]
    num_missing = sum(end - start for start, end in parts)
    if num_missing > max_mb * 1e6:
        raise DownloadError(f"{url}: {num_missing / 1e6:,.0f} MB, more than --max-mb {max_mb:,.0f}")
    size = sum(file.size for file, _ in files)
    print(
        f"downloading {num_missing / 1e6:,.1f} MB of Food-101 ({size / 1e6:,.0f} MB) from {url}\n"
        f"{LICENSE}",
        flush=True,
    )
    quiet = not sys.stderr.isatty()
    with tqdm(
        total=num_missing, desc="downloading", unit="B", unit_scale=True, disable=quiet
    ) as bar:
        for file, ranges in files:
            try:
                file.fetch(ranges, bar.update)
            except DownloadError as error:
                problem = f"{error}; run this again to continue the download"
                raise UserError(problem, INTERRUPTED) from error


def _check_reachable(url: str) -> None:
    """Raises DownloadError unless the server responds soon, with whatever status.

    On a thread, because the time limit of a request does not include the search for the address.
    """
    outcome: queue.Queue = queue.Queue()

    def request() -> None:
        try:
            headers = {"Range": "bytes=0-0"}
            requests.get(url, headers=headers, stream=True, timeout=NETWORK_TIMEOUT_S).close()
            outcome.put("")
        except requests.RequestException as error:
            outcome.put(reason(error))

    threading.Thread(target=request, daemon=True).start()
    try:
        failure = outcome.get(timeout=NETWORK_TIMEOUT_S)
    except queue.Empty:
        failure = f"no response within {NETWORK_TIMEOUT_S:.0f} s"
    if failure:
        raise DownloadError(f"{url}: {failure}")
