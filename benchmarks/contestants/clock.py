"""What all contestants share: their flags, the core they are held to, and how they are timed.

It imports nothing but Python's own library: it is there before a contestant's framework is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path
from typing import Callable, Sequence


def start(description: str, parts: Sequence[str]) -> argparse.Namespace:
    """The flags of this process, which is pinned to a core if they say so.

    What they do not know is in `rest`. To be called before a framework is imported, which looks at
    its cores only then.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    flag = parser.add_argument
    flag("part", choices=parts, help="what to time")
    flag("--data", required=True, help="folder of train/CLASS/*.jpg and test/CLASS/*.jpg")
    flag("--batch-size", type=int, default=32, help="images a step of one process")
    flag("--warmup", type=int, default=2, help="steps before the clock starts")
    flag("--steps", type=int, default=14, help="steps on the clock; of some parts, epochs")
    flag("--num-workers", type=int, default=0, help="of a DataLoader")
    flag("--pin", action="store_true", help="hold the process to one core, each rank to its own")
    args, args.rest = parser.parse_known_args()
    if args.pin:
        cores = sorted(os.sched_getaffinity(0))
        local_rank = int(os.environ.get("HOROVOD_LOCAL_RANK", 0))
        os.sched_setaffinity(0, {cores[local_rank % len(cores)]})
    return args


class Clock:
    """Times a window of steps, between two points at which the device has nothing left to do.

    sync: waits for the device; note: what is to be told of the contestant beside its numbers.
    """

    def __init__(
        self, warmup: int, steps: int, sync: Callable[[], None] = lambda: None, note: str = ""
    ):
        self._left = {"warmup": warmup, "steps": steps}
        self._sync, self._note = sync, note
        self._num_images = 0

    def step(self, num_images: int) -> bool:
        """Counts one; whether it was the last. The window is told then, as a JSON line."""
        if self._left["warmup"]:
            self._left["warmup"] -= 1
            if not self._left["warmup"]:
                self._sync()
                self._start = time.perf_counter()
            return False
        self._num_images += num_images
        self._left["steps"] -= 1
        if self._left["steps"]:
            return False
        self._sync()
        tell(self._num_images, time.perf_counter() - self._start, note=self._note)
        return True


def tell(num_images: int, elapsed_s: float, **more: float | str) -> None:
    """Prints the JSON line that compare.py reads; a job's first rank tells for all of them."""
    if os.environ.get("HOROVOD_RANK", "0") == "0":
        told = {"images": num_images, "elapsed_s": elapsed_s, "peak_mb": memory_mb("VmHWM")}
        print(json.dumps({**told, **more}), flush=True)


def memory_mb(field: str) -> float:
    """Of this process without its children, MB: VmRSS, now, or VmHWM, the most there was."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)[1]) * 1024 / 1e6
