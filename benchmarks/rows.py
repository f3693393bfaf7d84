"""Who competes, and which ratios are told of them."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.machine import num_cores
from benchmarks.rounds import Ratio

CORES = num_cores()
DECODERS = min(8, CORES)  # the original's number of DataLoader workers, where there are the cores


class Contestant(NamedTuple):
    """A program of benchmarks/contestants and its flags.

    epochs: how many passes over the images `--steps` counts for it, where it is not steps.
    """

    program: str
    flags: tuple[str, ...]
    num_ranks: int = 0
    environ: tuple[tuple[str, str], ...] = ()
    epochs: int = 0


def _alone(*flags: str, num_ranks: int = 0, epochs: int = 0) -> Contestant:
    """dist_ft on one core a rank, with one thread."""
    one_thread = (("OMP_NUM_THREADS", "1"),)
    return Contestant("dist_ft_loop", (*flags, "--pin"), num_ranks, one_thread, epochs)


def _workers(num: int) -> tuple[str, str]:
    return "--num-workers", str(num)


BFLOAT16 = ("--dtype", "bfloat16")
CACHED = ("--cache", "ram")
SMALL = ("--model", "mobilenet0.25", "--image-size", "32")

CONTESTANTS = {
    "loader, original": Contestant(
        "original_gluon",
        ("loader", "--pin", *_workers(0)),
        environ=(("OMP_NUM_THREADS", "1"),),
        epochs=3,
    ),
    "loader, dist_ft": _alone("loader", epochs=3),
    "loader, dist_ft cached": _alone("loader", *CACHED, epochs=10),
    "loader, dist_ft normalised": _alone("normalised", epochs=3),
    "loader, dist_ft cached normalised": _alone("normalised", *CACHED, epochs=10),
    "train, original": Contestant("original_gluon", ("train", *_workers(DECODERS))),
    "train, Horovod example": Contestant("horovod_example", ("train", *_workers(2)), num_ranks=1),
    "train, PyTorch float32": Contestant("pytorch_loop", ("float32", *_workers(CORES))),
    "train, PyTorch bfloat16": Contestant("pytorch_loop", ("bfloat16", *_workers(CORES))),
    "train, dist_ft float32": Contestant("dist_ft_loop", ("train",)),
    "train, dist_ft bfloat16": Contestant("dist_ft_loop", ("train", *BFLOAT16)),
    "train, in memory float32": Contestant("dist_ft_loop", ("in-memory",)),
    "train, in memory bfloat16": Contestant("dist_ft_loop", ("in-memory", *BFLOAT16)),
    "ranks, training by one": _alone("train"),
    "ranks, training by two": _alone("train", num_ranks=2),
    "ranks, tests by one": _alone("evaluate", epochs=2),
    "ranks, tests by two": _alone("evaluate", num_ranks=2, epochs=2),
    "frozen, original": Contestant("original_gluon", ("frozen", *_workers(DECODERS)), epochs=2),
    "frozen, dist_ft": Contestant("dist_ft_frozen", ("train",), epochs=5),
    "tests, original": Contestant("original_gluon", ("evaluate", *_workers(DECODERS)), epochs=2),
    "tests, dist_ft": Contestant("dist_ft_loop", ("evaluate",), epochs=2),
    "tests, network alone": Contestant("dist_ft_loop", ("net",), epochs=2),
    "memory, fifty epochs": Contestant("dist_ft_loop", ("growth", *SMALL), epochs=50),
}

PREFETCH_MB = 64  # Config's bound for what is decoded ahead

RATIOS = (
    Ratio("loader / original's", "loader, dist_ft", "loader, original", "6"),
    Ratio("cached loader / original's", "loader, dist_ft cached", "loader, original", "25"),
    Ratio("loader, normalising / original's", "loader, dist_ft normalised", "loader, original", ""),
    Ratio(
        "cached loader, normalising / original's",
        *("loader, dist_ft cached normalised", "loader, original", ""),
    ),
    Ratio("training / original's", "train, dist_ft float32", "train, original", ""),
    Ratio("training / Horovod example's", "train, dist_ft float32", "train, Horovod example", ""),
    Ratio("training / PyTorch's", "train, dist_ft float32", "train, PyTorch float32", ""),
    Ratio(
        "training in bfloat16 / PyTorch's",
        *("train, dist_ft bfloat16", "train, PyTorch bfloat16", ""),
    ),
    Ratio("training in bfloat16 / original's", "train, dist_ft bfloat16", "train, original", ""),
    Ratio(
        "training / its steps in memory",
        *("train, dist_ft float32", "train, in memory float32", "0.97"),
    ),
    Ratio(
        "training / its steps in memory, bfloat16",
        *("train, dist_ft bfloat16", "train, in memory bfloat16", "0.97"),
    ),
    Ratio(
        "training: two ranks / twice one",
        *("ranks, training by two", "ranks, training by one", "0.95"),
        times=2,
    ),
    Ratio(
        "tests: two ranks / twice one",
        *("ranks, tests by two", "ranks, tests by one", "0.9"),
        times=2,
    ),
    Ratio("frozen features: epoch / original's", "frozen, dist_ft", "frozen, original", ""),
    Ratio("tests / original's", "tests, dist_ft", "tests, original", ""),
    Ratio("tests / network alone", "tests, dist_ft", "tests, network alone", ""),
    Ratio(
        "peak memory / in memory and prefetch",
        *("train, dist_ft float32", "train, in memory float32", "at most 1", "peak_mb"),
        plus=PREFETCH_MB,
    ),
)
