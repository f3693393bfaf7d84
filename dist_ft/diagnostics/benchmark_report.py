"""Describes the results of benchmarks: tables, and what limits the speed."""

from __future__ import annotations

from typing import Any, Mapping

WAIT_FOR_DATA, ALLREDUCE = "wait for data", "allreduce"  # parts of a step
MAX_WAIT_SHARE = 0.05  # of a step: a larger wait for data is worth a remedy
MAX_ALLREDUCE_SHARE = 0.15


def report(mode: str, result: Mapping[str, Any], devices: str) -> str:
    """A line for the speed, or a table; devices: number and kind, as "2 x cpu(0)"."""
    if mode == "allreduce":
        return "\n".join(
            f"{num_bytes:>12,} bytes {seconds * 1e3:10.3f} ms {num_bytes / seconds / 1e9:8.3f} GB/s"
            for num_bytes, seconds in result["allreduce_s"].items()
        )
    speed = f"{mode}: {result['images_per_s']:,.1f} images/s on {devices}"
    if mode == "loader":
        return speed
    lines = [
        f"{speed}, {result['step_s'] * 1e3:,.1f} ms per step in {result['dtype']}; its parts, timed"
        " one by one:"
    ]
    for name, seconds in result["parts_s"].items():
        share = seconds / result["step_s"]
        lines.append(f"    {name:22}{seconds * 1e3:10.1f} ms {share:6.1%}")
    return "\n".join(lines)


def advice(result: Mapping[str, Any], fastest_dtype: str, num_threads: int, num_cores: int) -> str:
    """What limits the steps, and what would help.

    result: of the modes step and train; num_threads, num_cores: of each rank.
    """
    step_s, parts_s = result["step_s"], result["parts_s"]
    if parts_s[WAIT_FOR_DATA] > MAX_WAIT_SHARE * step_s:
        return "limited by decoding: try --cache ram or disk, or --num-workers if cores are idle"
    if parts_s[ALLREDUCE] > MAX_ALLREDUCE_SHARE * step_s:
        return (
            "limited by the allreduce: try --compression fp16, a larger --fusion-mb, or a faster"
            " network"
        )
    if fastest_dtype != result["dtype"]:
        return f"limited by computation: --dtype {fastest_dtype} is faster"
    if num_threads < num_cores:
        return (
            f"limited by computation on {num_threads} of {num_cores} cores: unset OMP_NUM_THREADS"
        )
    return "limited by computation: use a GPU, more hosts, or a smaller --image-size"


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
