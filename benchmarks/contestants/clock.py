"""Flags, core binding and timing that all contestants share.

Imports only the standard library, since it runs before a contestant's framework is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path
from typing import Callable, Sequence


def parse(description: str, parts: Sequence[str]) -> argparse.Namespace:
    """Parses the flags, and with --pin binds this process to one core; `rest` is what is unknown.

    To be called before a framework is imported, which counts its cores only then.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    flag = parser.add_argument
    flag("part", choices=parts, help="what to time")
    flag("--data", required=True, help="folder of train/CLASS/*.jpg and test/CLASS/*.jpg")
    flag("--batch-size", type=int, default=32, help="images per step of one process")
    flag("--warmup", type=int, default=2, help="steps before the clock starts")
    flag("--steps", type=int, default=14, help="timed steps; in some parts, epochs")
    flag("--num-workers", type=int, default=0, help="of a DataLoader")
    flag("--pin", action="store_true", help="bind each rank to a core of its own")
    args, args.rest = parser.parse_known_args()
    if args.pin:
        cores = sorted(os.sched_getaffinity(0))
        local_rank = int(os.environ.get("HOROVOD_LOCAL_RANK", 0))
        os.sched_setaffinity(0, {cores[local_rank % len(cores)]})
    return args


class Clock:
    """Times a number of steps after a warm-up, and prints the result.

    wait: waits until the device is idle.
    """

    def __init__(self, warmup: int, steps: int, wait: Callable[[], None] = lambda: None):
        self._warmup_left, self._steps_left, self._wait = warmup, steps, wait
        self._num_images, self._start = 0, 0.0

    def step(self, num_images: int) -> bool:
        """Counts a step of so many images; True after the last one."""
        if self._warmup_left:
            self._warmup_left -= 1
            if not self._warmup_left:
                self._wait()
                self._start = time.perf_counter()
            return False
        self._num_images += num_images
        self._steps_left -= 1
        if self._steps_left:
            return False
        self._wait()
        print_result(self._num_images / (time.perf_counter() - self._start))
        return True


def print_result(images_per_s: float, peak_mb: float | None = None) -> None:
    """Prints the JSON line that compare.py reads, on the first rank only."""
    if os.environ.get("HOROVOD_RANK", "0") == "0":
        peak_mb = peak_memory_mb() if peak_mb is None else peak_mb
        print(json.dumps({"images_per_s": images_per_s, "peak_mb": peak_mb}), flush=True)


def peak_memory_mb() -> float:
    """Of this process, without its children."""
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(peak[1]) * 1024 / 1e6 if peak else 0.0
