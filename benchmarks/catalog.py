"""The contestants, and the ratios of their results."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.machine import num_cores
from benchmarks.results import Ratio

CORES = num_cores()
RECIPE_WORKERS = min(8, CORES)  # of the original's DataLoader
ONE_THREAD = (("OMP_NUM_THREADS", "1"),)
LOADER_STEPS = 20  # times as many: a batch of a loader takes milliseconds


@dataclass(frozen=True)
class Contestant:
    """A program of benchmarks/contestants, and how it is started."""

    program: str
    flags: tuple[str, ...]
    num_ranks: int = 0  # 0: without a launcher
    environ: tuple[tuple[str, str], ...] = ()
    max_epochs: int = 0  # if it counts epochs instead of steps
    times_steps: int = 1  # for quick ones: so many times the steps

    def needs_bfloat16(self) -> bool:
        """True if it computes in bfloat16: without instructions for it, MXNet cannot or is slower,
        and PyTorch takes minutes per step."""
        return "bfloat16" in self.flags


def _workers(count: int) -> tuple[str, str]:
    return "--num-workers", str(count)


CONTESTANTS = {
    "loader, original": Contestant(
        "original_gluon",
        ("loader", "--pin", *_workers(0)),
        environ=ONE_THREAD,
        times_steps=LOADER_STEPS,
    ),
    "loader, dist_ft": Contestant(
        "dist_ft_bench", ("loader", "--pin"), environ=ONE_THREAD, times_steps=LOADER_STEPS
    ),
    "loader, dist_ft cached": Contestant(
        "dist_ft_bench",
        ("loader", "--pin", "--cache", "ram"),
        environ=ONE_THREAD,
        times_steps=LOADER_STEPS,
    ),
    "train, original": Contestant("original_gluon", ("train", *_workers(RECIPE_WORKERS))),
    "train, Horovod example": Contestant("horovod_example", ("train", *_workers(2)), num_ranks=1),
    "train, PyTorch float32": Contestant("pytorch_loop", ("float32", *_workers(CORES))),
    "train, PyTorch bfloat16": Contestant("pytorch_loop", ("bfloat16", *_workers(CORES))),
    "train, dist_ft float32": Contestant("dist_ft_bench", ("train",)),
    "train, dist_ft bfloat16": Contestant("dist_ft_bench", ("train", "--dtype", "bfloat16")),
    "train, in memory float32": Contestant("dist_ft_bench", ("step",)),
    "train, in memory bfloat16": Contestant("dist_ft_bench", ("step", "--dtype", "bfloat16")),
    "ranks, training by one": Contestant("dist_ft_bench", ("train", "--pin"), environ=ONE_THREAD),
    "ranks, training by two": Contestant(
        "dist_ft_bench", ("train", "--pin"), num_ranks=2, environ=ONE_THREAD
    ),
    "frozen, original": Contestant(
        "original_gluon", ("frozen", *_workers(RECIPE_WORKERS)), max_epochs=2
    ),
    "frozen, dist_ft": Contestant("dist_ft_frozen", ("frozen",), max_epochs=5),
    "evaluation, original": Contestant(
        "original_gluon", ("evaluate", *_workers(RECIPE_WORKERS)), max_epochs=2
    ),
    "evaluation, dist_ft": Contestant("dist_ft_evaluate", ("evaluate",), max_epochs=2),
}

RATIOS = (
    Ratio("loader / original", "loader, dist_ft", "loader, original"),
    Ratio("cached loader / original", "loader, dist_ft cached", "loader, original"),
    Ratio("training / original", "train, dist_ft float32", "train, original"),
    Ratio("training / Horovod example", "train, dist_ft float32", "train, Horovod example"),
    Ratio("training / PyTorch", "train, dist_ft float32", "train, PyTorch float32"),
    Ratio("bfloat16 training / PyTorch", "train, dist_ft bfloat16", "train, PyTorch bfloat16"),
    Ratio("training / in memory", "train, dist_ft float32", "train, in memory float32"),
    Ratio("bfloat16 training / in memory", "train, dist_ft bfloat16", "train, in memory bfloat16"),
    Ratio("two ranks / twice one", "ranks, training by two", "ranks, training by one", times=2),
    Ratio("frozen backbone: epochs / original", "frozen, dist_ft", "frozen, original"),
    Ratio("evaluation / original", "evaluation, dist_ft", "evaluation, original"),
)
