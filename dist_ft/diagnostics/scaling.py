"""Compares the speed of several numbers of processes, one job after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, Mapping, Sequence

from dist_ft.errors import UserError


def sizes(text: str) -> list[int]:
    """The numbers of processes that the flag --np lists."""
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"{text}: must be numbers, separated by commas") from None


def run_jobs(
    mode: str, sizes: Sequence[int], num_steps: int, settings: Sequence[str]
) -> tuple[dict[Any, Any], str]:
    """Runs `python -m dist_ft.bench MODE SETTINGS` with each number of processes on this host.

    The jobs print their reports. Returns their results, and a table of their speeds. Raises
    UserError if one fails.
    """
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            file = Path(folder, f"{size}.json")
            command = [sys.executable, "-m", "dist_ft.bench", mode, "--steps", str(num_steps)]
            command += ["--json", str(file), *settings]
            if size > 1:
                horovodrun = str(Path(sys.executable).with_name("horovodrun"))
                # Not every machine has an entry for localhost in /etc/hosts.
                hosts = ["-np", str(size), "-H", f"127.0.0.1:{size}", "--gloo"]
                command = [horovodrun, *hosts, *command]
            status = subprocess.run(command).returncode
            if status:
                raise UserError(f"the job with {size} processes failed, see above", status)
            results[size] = json.loads(file.read_text())
    speeds = {size: r["images_per_s"] for size, r in results.items() if "images_per_s" in r}
    return results, scaling_table(speeds) if speeds else ""


def scaling_table(images_per_s: Mapping[int, float]) -> str:
    """The speed by number of processes, and per process in relation to the smallest number."""
    smallest = min(images_per_s)
    lines = []
    for num_processes, speed in sorted(images_per_s.items()):
        efficiency = (speed / num_processes) / (images_per_s[smallest] / smallest)
        lines.append(
            f"{num_processes:3} processes {speed:10,.1f} images/s, {efficiency:7.1%} per process"
            f" of {smallest}"
        )
    return "\n".join(lines)
