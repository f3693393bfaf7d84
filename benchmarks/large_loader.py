"""Measures the loader on photos of 12 MP: without a cache, with one on disk, and packed.

    python -m benchmarks.large_loader

The photos are those of benchmarks.photos, enlarged and kept beside them. Each way is a process of
its own on one core; a round runs each of them once. The time to prepare is that of all cores.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Sequence

from benchmarks import machine, photos, processes
from benchmarks.command_line import parser_for
from benchmarks.results import spread, table

PACKED_SIDE_PX = 256  # as that of a cache


def prepare(data: Path, folder: Path) -> dict[str, float]:
    """Fills a cache and writes archives in `folder`; the seconds that they take."""
    flags = {
        "--cache disk": ["--cache-dir", str(folder / "cache")],
        "packed": ["--recordio", str(folder / "packed"), "--side", str(PACKED_SIDE_PX)],
    }
    seconds = {"without a cache": 0.0}
    for way, arguments in flags.items():
        start = time.perf_counter()
        command = [sys.executable, "-m", "dist_ft.pack", str(data), *arguments]
        subprocess.run(command, check=True, cwd=processes.REPO, stdout=sys.stderr)
        seconds[way] = time.perf_counter() - start
    return seconds


def flags_of(data: Path, folder: Path) -> dict[str, Sequence[str]]:
    """The flags of dist_ft.bench for each way; cached and packed images need more steps."""
    cache = ["--cache", "disk", "--cache-dir", str(folder / "cache"), "--steps", "200"]
    return {
        "without a cache": ["--data", str(data), "--steps", "10"],
        "--cache disk": ["--data", str(data), *cache],
        "packed": ["--data", str(folder / "packed"), "--steps", "100"],
    }


def main() -> None:
    parser = parser_for("large_loader", __doc__)
    parser.add_argument("--data", type=Path, help="of images to enlarge, as train/CLASS/*.jpg")
    parser.add_argument("--photos", type=int, default=200, help="of 12 MP (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    args = parser.parse_args()
    data = photos.large_folder(args.data or photos.default_folder(), args.photos)
    print(f"Machine: {machine.describe()}.\nImages: {photos.describe(data)}.\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = prepare(data, folder)
        ways = flags_of(data, folder)
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, flags in ways.items():
                environ = {"OMP_NUM_THREADS": "1"}
                result = processes.run(
                    "dist_ft_bench", ["loader", "--pin", *flags], environ=environ
                )
                speeds[way].append(result["images_per_s"])
    rows = [
        (way, *(f"{value:,.0f}" for value in (*spread(speeds[way]), seconds[way]))) for way in ways
    ]
    print(table(("images/s of a core", "median", "min", "max", "to prepare, s"), rows))


if __name__ == "__main__":
    main()
