"""Measures the speed of a training run and of its parts, with real ranks on real images.

Each function runs on every rank and returns plain values, the same on all ranks.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice, repeat
from typing import Any, Dict, Iterator

import mxnet as mx
import numpy as np

from dist_ft import train
from dist_ft.config import Config
from dist_ft.data.loader import Batch
from dist_ft.diagnostics.benchmark_report import ALLREDUCE, WAIT_FOR_DATA, advice, report
from dist_ft.distributed import horovod_settings, startup, threads
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import precision
from dist_ft.training.run import Run
from dist_ft.training.setup import build_run

NUM_WARMUP_STEPS = 2  # the first one compiles
ALLREDUCE_SIZES = [2**power for power in range(3, 28, 4)]  # bytes: 8 B to 128 MB

Result = Dict[str, Any]


def run(mode: str, config: Config, num_steps: int, num_threads: int) -> tuple[Result, str]:
    """Runs one of MODES on this rank; returns its result and a report.

    num_steps: that are timed, after a warm-up; num_threads: of this rank. Ends the process on all
    ranks but the first, and if the mode cannot be measured.
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
    """Raises UserError if the mode cannot be measured."""
    if mode == "allreduce":
        return measure_allreduce(num_steps, world)
    measure_mode = {"loader": measure_loader, "step": measure_step, "train": measure_train}[mode]
    dtype = precision.fastest_dtype(world) if config.dtype == "auto" else config.dtype
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "run")
        config = replace(config, out=out, resume="never", dtype=dtype)
        result = measure_mode(config, num_steps, world)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {**result, "dtype": dtype, "peak_mb": peak_mb}


def measure_loader(config: Config, num_steps: int, world: World) -> Result:
    """Images per second that the ranks decode and augment, if all are as fast as the slowest."""
    num_images = 0
    with build_run(config, world) as run:
        batches = _endless_batches(run)
        next(batches)  # warms up
        start = time.perf_counter()
        for batch in islice(batches, num_steps):
            num_images += batch.num_images
        elapsed_s = time.perf_counter() - start
    return {"images_per_s": world.size * min(world.gather(num_images / elapsed_s))}


def measure_step(config: Config, num_steps: int, world: World) -> Result:
    """Training steps on one batch that stays in memory."""
    with build_run(config, world) as run:
        batch = next(_endless_batches(run))
        return _measure_steps(run, config, repeat(batch), num_steps)


def measure_train(config: Config, num_steps: int, world: World) -> Result:
    """Training steps on the batches of the data set."""
    with build_run(config, world) as run:
        return _measure_steps(run, config, _endless_batches(run), num_steps)


def measure_allreduce(num_repeats: int, world: World) -> Result:
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


def _endless_batches(run: Run) -> Iterator[Batch]:
    """This rank's training batches, epoch after epoch."""
    while True:
        for epoch, steps in run.plan.epochs_from(0):
            yield from run.batches.train(epoch, map(run.plan.images_of, steps))


class TimedTrainer:
    """A trainer that times the parts of a step, and waits for the device after each."""

    def __init__(self, trainer: mx.gluon.Trainer):
        self._trainer = trainer
        self.parts_s: dict[str, float] = {}
        self.start_step()

    def start_step(self) -> None:
        mx.nd.waitall()
        self.parts_s = {}
        self._last = time.perf_counter()

    def allreduce_grads(self) -> None:
        self._end_part("forward and backward")
        self._trainer.allreduce_grads()
        self._end_part(ALLREDUCE)

    def update(self, *args: Any) -> None:
        self._trainer.update(*args)
        self._end_part("update")

    def _end_part(self, name: str) -> None:
        mx.nd.waitall()
        now = time.perf_counter()
        self.parts_s[name] = now - self._last
        self._last = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def _measure_steps(run: Run, config: Config, batches: Iterator[Batch], num_steps: int) -> Result:
    """Times steps as they are, and then further steps part by part, which is slower."""
    world = run.world

    def step(batch: Batch, trainer: Any) -> mx.nd.NDArray:
        num_images = run.sync.exchange(batch.num_images, 0, None).num_images
        return train.train_step(
            run.trained_net,
            trainer,
            batch.on(world.ctx),
            num_images / world.size,
            config.label_smoothing,
            config.clip_norm,
            run.loss_scale,
        )

    for batch in islice(batches, NUM_WARMUP_STEPS):
        step(batch, run.trainer).wait_to_read()
    loader = run.batches.train_loader
    num_images, waited_s, start = 0, loader.waited_s, time.perf_counter()
    for number, batch in enumerate(islice(batches, num_steps)):
        world.heartbeat(f"step {number}")
        run.sync.push(step(batch, run.trainer), batch.num_images, number)
        num_images += batch.num_images
    mx.nd.waitall()
    elapsed_s = time.perf_counter() - start
    waited_s = loader.waited_s - waited_s

    timed_trainer, parts_of_steps = TimedTrainer(run.trainer), []
    for batch in islice(batches, max(3, num_steps // 2)):
        timed_trainer.start_step()
        step(batch, timed_trainer)
        parts_of_steps.append(timed_trainer.parts_s)
    parts_s = {WAIT_FOR_DATA: waited_s / num_steps}
    for name in parts_of_steps[0]:
        parts_s[name] = float(np.median([parts[name] for parts in parts_of_steps]))

    gathered = world.gather((num_images, elapsed_s, parts_s))
    slowest_s = max(rank_elapsed_s for _, rank_elapsed_s, _ in gathered)
    return {
        "images_per_s": sum(rank_images for rank_images, _, _ in gathered) / slowest_s,
        "step_s": slowest_s / num_steps,
        "parts_s": {name: max(parts[name] for _, _, parts in gathered) for name in parts_s},
    }
