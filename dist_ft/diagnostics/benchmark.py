"""Measures the speed of a training run and of its parts, with real ranks on real images."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from typing import Any, Dict, Iterator, Mapping

import mxnet as mx
import numpy as np

from dist_ft import train
from dist_ft.config import Config
from dist_ft.data.loader import Batch
from dist_ft.data.rank_batches import RankBatches
from dist_ft.diagnostics import augmentation_costs, lr_range
from dist_ft.distributed import horovod_settings, startup, threads
from dist_ft.distributed.trainer import HookedTrainer
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import precision
from dist_ft.training.run import Run
from dist_ft.training.setup import build_run

NUM_WARMUP_STEPS = 2  # the first one compiles
ALLREDUCE_SIZES = [2**power for power in range(3, 28, 4)]  # bytes: 8 B to 128 MB
IMAGES_PER_STEP = 10  # whose augmentation is timed part by part
WAIT_FOR_DATA, ALLREDUCE = "wait for data", "allreduce"
STEP_PARTS = ("forward and backward", ALLREDUCE, "update")
MAX_WAIT_SHARE = 0.05  # of a step: a larger wait for data is worth a remedy
MAX_ALLREDUCE_SHARE = 0.15

Result = Dict[str, Any]  # plain values, the same on all ranks


def run(mode: str, config: Config, num_steps: int, num_threads: int) -> tuple[Result, str]:
    """Measures a mode of dist_ft.bench; returns its result and a report.

    num_steps: that are timed, after a warm-up; num_threads: of this rank. Ends the process on all
    ranks but the first. Raises UserError if the mode cannot be measured.
    """
    settings = horovod_settings.from_flags(config)
    with startup.start(config.device, config.stall_timeout, settings) as world:
        result = measure(mode, config, num_steps, world)
        text = report(mode, result, f"{world.size} x {world.ctx}")
        if "parts_s" in result:
            num_cores = threads.usable_cores() // world.local_size
            text += "\n" + advice(result, precision.fastest_dtype(world), num_threads, num_cores)
        is_main = world.is_main
    if not is_main:
        sys.exit()
    return result, text


def measure(mode: str, config: Config, num_steps: int, world: World) -> Result:
    if mode == "allreduce":
        return _measure_allreduce(num_steps, world)
    dtype = precision.fastest_dtype(world) if config.dtype == "auto" else config.dtype
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "run")
        config = replace(config, out=out, resume="never", dtype=dtype)
        with build_run(config, world) as run:
            batches = _endless_batches(run)
            if mode == "loader":
                result = _measure_loader(batches, num_steps, world)
                if isinstance(run.batches, RankBatches):  # not cached features
                    costs = augmentation_costs.measure(run.batches, IMAGES_PER_STEP * num_steps)
                    result["us_per_image"] = world.gather(costs)[0]
            elif mode == "lr":
                step = partial(_train_step, run, config, run.trainer)
                result = lr_range.measure_run(run, step, batches, num_steps)
            else:
                if mode == "step":
                    batches = repeat(next(batches))  # stays in memory
                result = _measure_steps(run, config, batches, num_steps)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {**result, "dtype": dtype, "peak_mb": peak_mb}


def _endless_batches(run: Run) -> Iterator[Batch]:
    """This rank's training batches, epoch after epoch."""
    while True:
        for epoch, steps in run.plan.epochs_from(0):
            yield from run.batches.train(epoch, map(run.plan.images_of, steps))


def _measure_loader(batches: Iterator[Batch], num_steps: int, world: World) -> Result:
    """Images per second that the ranks decode and augment, if all are as fast as the slowest."""
    mx.nd.waitall()  # until the parameters are initialized
    next(batches)  # warms up
    start = time.perf_counter()
    num_images = sum(batch.num_images for batch in islice(batches, num_steps))
    images_per_s = num_images / (time.perf_counter() - start)
    return {"images_per_s": world.size * min(world.gather(images_per_s))}


def _train_step(run: Run, config: Config, trainer: Any, batch: Batch) -> mx.nd.NDArray:
    """A step as the training loop makes it, and its update of the moving average."""
    weight_sum = run.sync.exchange(batch.weight_sum, 0, None).weight_sum
    sums = train.train_step(
        run.trained_net,
        trainer,
        batch.on(run.world.ctx),
        weight_sum / run.world.size,
        config.clip_norm,
        run.loss_scale,
        config.micro_batch,
    )
    run.average.update(step=0)
    return sums


def _measure_allreduce(num_repeats: int, world: World) -> Result:
    """Seconds of a sum over the ranks, from and to host memory, by its size in bytes."""
    if world.size == 1:
        raise UserError("allreduce needs at least two processes: add --np 2, or use horovodrun")
    medians_s = {}
    for num_bytes in ALLREDUCE_SIZES:
        world.heartbeat(f"allreduce of {num_bytes} bytes")
        values, times_s = np.ones(num_bytes // 8), []
        for _ in range(NUM_WARMUP_STEPS + num_repeats):
            start = time.perf_counter()
            world.sum(values)
            times_s.append(time.perf_counter() - start)
        medians_s[num_bytes] = float(np.median(times_s[NUM_WARMUP_STEPS:]))
    return {"allreduce_s": medians_s}


def _measure_steps(run: Run, config: Config, batches: Iterator[Batch], num_steps: int) -> Result:
    """Times steps as they are, and then further steps part by part, which is slower."""
    world = run.world

    def time_parts(batch: Batch) -> np.ndarray:
        """Seconds of each of STEP_PARTS; waits for the device after each."""
        times_s: list[float] = []

        def end_part() -> None:
            mx.nd.waitall()
            times_s.append(time.perf_counter())

        end_part()
        _train_step(run, config, HookedTrainer(run.trainer, end_part, end_part), batch)
        end_part()
        return np.diff(times_s[-len(STEP_PARTS) - 1 :])

    for batch in islice(batches, NUM_WARMUP_STEPS):
        _train_step(run, config, run.trainer, batch).wait_to_read()
    loader = run.batches.train_loader
    num_images, waited_s, start = 0, loader.waited_s, time.perf_counter()
    for number, batch in enumerate(islice(batches, num_steps)):
        world.heartbeat(f"step {number}")
        sums = _train_step(run, config, run.trainer, batch)
        run.sync.push(sums, batch.num_images, number)
        num_images += batch.num_images
    mx.nd.waitall()
    elapsed_s = time.perf_counter() - start
    waited_s = loader.waited_s - waited_s
    medians_s = np.median([time_parts(b) for b in islice(batches, max(3, num_steps // 2))], axis=0)
    parts_s = [waited_s / num_steps, *medians_s.tolist()]

    images, times_s, parts_of_ranks = zip(*world.gather((num_images, elapsed_s, parts_s)))
    slowest_parts_s = map(max, zip(*parts_of_ranks))
    return {
        "images_per_s": sum(images) / max(times_s),
        "step_s": max(times_s) / num_steps,
        "parts_s": dict(zip((WAIT_FOR_DATA, *STEP_PARTS), slowest_parts_s)),
    }


def report(mode: str, result: Mapping[str, Any], devices: str) -> str:
    """A line for the speed, or a table; devices: number and kind, as "2 x cpu(0)"."""
    if mode == "lr":
        return lr_range.report(result)
    if mode == "allreduce":
        return "\n".join(
            f"{num_bytes:>12,} bytes {seconds * 1e3:10.3f} ms {num_bytes / seconds / 1e9:8.3f} GB/s"
            for num_bytes, seconds in result["allreduce_s"].items()
        )
    speed = f"{mode}: {result['images_per_s']:,.1f} images/s on {devices}"
    if mode == "loader":
        costs_us = result.get("us_per_image", {}).items()
        lines = [
            f"    {name:22}{cost_us:10.1f} us of CPU time per image" for name, cost_us in costs_us
        ]
        return "\n".join([speed, *lines])
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
