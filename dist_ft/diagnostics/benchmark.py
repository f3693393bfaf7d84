"""Where the time goes: `python -m dist_ft.bench MODE [settings of dist_ft.train]`.

loader     images a second that this process decodes and augments
step       training steps on one batch that is in memory: forward and backward, allreduce, update
train      the same with the data set behind it, and how long the steps wait for it
allreduce  sums over the ranks, from a few bytes to the network's gradients

Medians after a warm-up. --np 1,2,4 starts itself with as many processes, one number after another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterator

from dist_ft import cli
from dist_ft.distributed import threads

THREADS = threads.bind_cores()  # before MXNet is loaded, which reads them

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402

from dist_ft import train  # noqa: E402
from dist_ft.config import Config  # noqa: E402
from dist_ft.data.loader import Batch  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.distributed.world import World  # noqa: E402
from dist_ft.errors import UserError  # noqa: E402
from dist_ft.models import precision  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

MODES = ("loader", "step", "train", "allreduce")
SUMMED = [2**power for power in range(3, 28, 4)]  # bytes

Result = Dict[str, Any]


class Clocked:
    """A trainer that stops the time of each part of a step, and waits for the device to do so."""

    def __init__(self, trainer: mx.gluon.Trainer):
        self._trainer = trainer
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        mx.nd.waitall()
        self.seconds, self._last = {}, time.perf_counter()

    def lap(self, name: str) -> None:
        mx.nd.waitall()
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now

    def allreduce_grads(self) -> None:
        self.lap("forward and backward")
        self._trainer.allreduce_grads()
        self.lap("allreduce")

    def update(self, *args) -> None:
        self._trainer.update(*args)
        self.lap("update")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def bench_loader(config: Config, world: World, steps: int) -> Result:
    """Images a second of a rank's loader, while every rank uses its own; the slowest one's."""
    num_images, start = 0, None
    with Run(config, world) as run:
        for batch in islice(_batches(run), steps + 1):
            if start is None:
                start = time.perf_counter()  # the first one warms up
                continue
            num_images += batch.num_images
        seconds = time.perf_counter() - start
    return {"images_per_s": world.size * min(world.gather(num_images / seconds))}


def bench_step(config: Config, world: World, steps: int) -> Result:
    """The parts of a step on a batch in memory; `train` is the same on batches as they come."""
    with Run(config, world) as run:
        (batch,) = islice(_batches(run), 1)
        return _steps(run, (batch for _ in iter(int, 1)), steps)


def bench_train(config: Config, world: World, steps: int) -> Result:
    with Run(config, world) as run:
        return _steps(run, _batches(run), steps)


def _batches(run: Run) -> Iterator[Batch]:
    """Epoch after epoch, without an end."""
    while True:
        for epoch, steps in run.plan.epochs_from(0):
            yield from run.train_batches(epoch, steps)


def _steps(run: Run, batches: Iterator[Batch], num_steps: int) -> Result:
    """Seconds of a step as it is, and of its parts, which are clocked in steps of their own."""
    world, c = run.world, run.config

    def step(batch: Batch, trainer: Any) -> mx.nd.NDArray:
        word = run.sync.exchange(batch.num_images, 0, None)
        images_a_rank = word.num_images / world.size
        settings = c.label_smoothing, c.clip_norm, run.loss_scale
        return train.train_step(
            run.trained_net, trainer, batch.on(world.ctx), images_a_rank, *settings
        )

    for batch in islice(batches, 2):
        step(batch, run.trainer).wait_to_read()  # compiles
    waited_s, num_images, whole = run.batches.train_loader.waited_s, 0, time.perf_counter()
    for number, batch in enumerate(islice(batches, num_steps)):
        world.heartbeat(f"step {number}")
        run.sync.push(step(batch, run.trainer), batch.num_images, number)
        num_images += batch.num_images
    mx.nd.waitall()
    whole = time.perf_counter() - whole
    waited_s = run.batches.train_loader.waited_s - waited_s
    clocked, laps = Clocked(run.trainer), []
    for batch in islice(batches, max(3, num_steps // 2)):
        clocked.start()
        step(batch, clocked)
        laps.append(clocked.seconds)
    parts = {name: float(np.median([lap[name] for lap in laps])) for name in laps[0]}
    everyones = world.gather((num_images, waited_s / num_steps, parts))
    return {
        "images_per_s": sum(images for images, _, _ in everyones) / whole,
        "step_s": whole / num_steps,
        "parts_s": {
            "wait for data": max(waited for _, waited, _ in everyones),
            **{name: max(parts[name] for _, _, parts in everyones) for name in parts},
        },
        "dtype": run.dtype,
    }


def bench_allreduce(_: Config, world: World, steps: int) -> Result:
    """Seconds of a sum over the ranks, from and to the hosts' memory, by its size in bytes."""
    seconds = {}
    for size in SUMMED:
        world.heartbeat(f"sum of {size} bytes")
        values, times = np.ones(size // 8), []
        for _ in range(steps + 2):
            start = time.perf_counter()
            world.sum(values)
            times.append(time.perf_counter() - start)
        seconds[size] = float(np.median(times[2:]))
    return {"allreduce_s": seconds}


def advice(
    step_s: float, parts_s: dict[str, float], dtype: str, quickest: str, threads: int, cores: int
) -> str:
    """What limits the steps, and what would help, in one line.

    quickest: the type that `precision.fastest_dtype` measures; threads of this process, of its
    cores.
    """
    if parts_s["wait for data"] > 0.05 * step_s:
        return "limited by decoding: --cache ram or disk, or --num-workers where cores are idle"
    if parts_s["allreduce"] > 0.15 * step_s:
        return (
            "limited by the allreduce: --compression fp16, a larger --fusion-mb, a faster network"
        )
    if quickest != dtype:
        return f"limited by the network's sums: --dtype {quickest} makes them faster"
    if threads < cores:
        return f"limited by the network's sums on {threads} of {cores} cores: unset OMP_NUM_THREADS"
    return "limited by the network's sums: a GPU, more hosts or a smaller --image-size is faster"


def _report(mode: str, world: World, result: Result) -> str:
    if mode == "allreduce":
        return "\n".join(
            f"{size:>12,} bytes {seconds * 1e3:10.3f} ms {size / seconds / 1e9:8.3f} GB/s"
            for size, seconds in result["allreduce_s"].items()
        )
    told = f"{mode}: {result['images_per_s']:,.1f} images/s on {world.size} x {world.ctx}"
    if mode == "loader":
        return f"{told}, {THREADS} threads each"
    rows = [
        f"    {name:22}{seconds * 1e3:10.1f} ms {seconds / result['step_s']:6.1%}"
        for name, seconds in result["parts_s"].items()
    ]
    told += (
        f", {result['step_s'] * 1e3:,.1f} ms a step in {result['dtype']}; its parts, one by one:"
    )
    return "\n".join([told, *rows])


def _launch(sizes: list[int], argv: list[str], kept: str | None) -> None:
    """Itself under horovodrun, one number of processes after another; a table of their speeds."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            file = Path(folder, f"{size}.json")
            command = [sys.executable, "-m", "dist_ft.bench", *argv, "--json", str(file)]
            if size > 1:
                horovodrun = str(Path(sys.executable).with_name("horovodrun"))
                where = ["-np", str(size), "-H", f"127.0.0.1:{size}", "--gloo"]
                command = [horovodrun, *where, *command]
            if subprocess.run(command).returncode:
                sys.exit(f"dist_ft: {size} processes ended with an error, see above")
            results[size] = json.loads(file.read_text())
    speeds = {size: r["images_per_s"] for size, r in results.items() if "images_per_s" in r}
    first = min(speeds, default=0)
    for size, speed in speeds.items():
        share = speed / size / (speeds[first] / first)
        print(f"{size:3} processes {speed:10,.1f} images/s {share:7.1%} of {first}'s each")
    if kept:
        Path(kept).write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dist_ft.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--steps", type=int, default=10, help="that are timed (default: 10)")
    parser.add_argument("--np", metavar="N,N", help="numbers of processes to start here")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    given, settings = parser.parse_known_args()
    config = cli.parse(settings)
    if given.np:
        steps = ["--steps", str(given.steps)]
        sizes = [int(size) for size in given.np.split(",")]
        return _launch(sizes, [given.mode, *steps, *settings], given.json)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, out=os.path.join(folder, "run"), resume="never")
        _bench(given.mode, config, given.steps, given.json)


def _bench(mode: str, config: Config, steps: int, kept: str | None) -> None:
    benches = dict(zip(MODES, (bench_loader, bench_step, bench_train, bench_allreduce)))
    settings = train.horovod_settings(config)
    with startup.start(config.device, config.stall_timeout, settings) as world:
        if mode == "allreduce" and world.size == 1:
            raise UserError("one process has nothing to sum: --np 2, or horovodrun in front")
        result = benches[mode](config, world, steps)
        told = _report(mode, world, result)
        if "parts_s" in result:
            cores = threads.usable_cores() // world.local_size
            measured = (result[name] for name in ("step_s", "parts_s", "dtype"))
            told += "\n" + advice(*measured, precision.fastest_dtype(world), THREADS, cores)
        if world.is_main:
            print(told, flush=True)
            if kept:
                Path(kept).write_text(json.dumps(result, indent=1) + "\n")
