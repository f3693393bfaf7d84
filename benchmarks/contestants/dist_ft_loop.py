"""dist_ft itself: what `python -m dist_ft.train` and `evaluate` do, and their parts alone.

    train       `fit` as it is, with its board, its exchange of sums and its watchdog
    in-memory   the same on a few batches that are held in memory: nothing is read or decoded
    loader      its batches alone
    normalised  the same, and what of gluon's transforms is the network's work here
    evaluate    its scores of the test images
    net         the network alone on test images that are held in memory
    growth      whole epochs: how much more memory the last one leaves than the tenth

Further flags are those of dist_ft.train.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from itertools import islice

from benchmarks.contestants import clock

PARTS = ("train", "in-memory", "loader", "normalised", "evaluate", "net", "growth")
args = clock.start(__doc__, PARTS)

from dist_ft import cli  # noqa: E402
from dist_ft.distributed import threads  # noqa: E402

threads.bind_cores()

import mxnet as mx  # noqa: E402

from dist_ft import train  # noqa: E402
from dist_ft.data import image_cache  # noqa: E402
from dist_ft.data.image_folder import scan  # noqa: E402
from dist_ft.data.rank_batches import RankBatches  # noqa: E402
from dist_ft.data.transforms import InputSpec  # noqa: E402
from dist_ft.distributed import startup  # noqa: E402
from dist_ft.evaluation.evaluator import evaluate  # noqa: E402
from dist_ft.models import zoo  # noqa: E402
from dist_ft.training import run  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402
from dist_ft.training.schedule import Plan  # noqa: E402

NUM_HELD = 2  # batches in memory
SETTLED = 10  # epochs after which memory should not grow


class Enough(Exception):
    """The clock has seen all steps."""


class Timed(Run):
    """A run that is on the clock, step by step, and is not tested between its epochs."""

    def __init__(self, config, world):
        super().__init__(config, world)
        self.clock = clock.Clock(args.warmup, args.steps, mx.nd.waitall)

    def end_step(self, step, sums, num_images):
        super().end_step(step, sums, num_images)
        part = self.plan.images_of(step)
        if self.clock.step(part.stop - part.start):
            raise Enough

    def end_epoch(self, epoch):
        self.sync.settle()
        self.sync.start_epoch()


class Held(Timed):
    """The same on batches that are there already."""

    def train_batches(self, epoch, steps):
        held = list(islice(super().train_batches(epoch, steps), NUM_HELD))
        return (held[step % len(held)] for step in steps)


class Growing(Run):
    """A run whose memory is looked at after each epoch."""

    def __init__(self, config, world):
        super().__init__(config, world)
        self.begun = time.perf_counter()

    def end_epoch(self, epoch):
        scores = super().end_epoch(epoch)
        memory_mb = clock.memory_mb("VmRSS")
        if epoch + 1 == min(SETTLED, self.config.epochs):
            self.settled_mb = memory_mb
        if epoch + 1 == self.config.epochs:
            images = self.config.epochs * len(self.dataset.train)
            elapsed_s = time.perf_counter() - self.begun
            clock.tell(images, elapsed_s, growth_mb=memory_mb - self.settled_mb)
        return scores


KINDS = {"train": Timed, "in-memory": Held, "growth": Growing}


def time_loader(config, world):
    folder = scan(config.data)
    views = InputSpec(config.image_size, config.resize_px, config.keep_ratio)
    num_workers = config.num_workers or threads.set_num_threads()
    packs = None
    if config.cache != "off":
        kept = config.cache_side_px, config.cache, config.cache_folder
        packs = image_cache.open_cache(folder, views, *kept, num_workers, world)
    feed = RankBatches(folder, views, 0, 0, 1, num_workers, config.prefetch_mb, packs)
    plan = Plan(len(folder.train), config.batch_size, args.warmup + args.steps)
    watch, normalize = clock.Clock(args.warmup, args.steps), zoo.Normalize()
    normalize.hybridize(static_alloc=True)
    for epoch, steps in plan.epochs_from(0):
        for batch in feed.train(epoch, map(plan.images_of, steps)):
            x, _, _ = batch.on(world.ctx)
            if args.part == "normalised":
                normalize(x).wait_to_read()
        watch.step(len(folder.train))
    feed.close()


def time_tests(config, world):
    """Passes over the test images."""
    test_run = Run(config, world)
    watch = clock.Clock(args.warmup, args.steps)
    held = []
    if args.part == "net":
        held = [batch.on(world.ctx)[0] for batch in test_run.batches.test()]
    for _ in range(args.warmup + args.steps):
        if args.part == "evaluate":
            evaluate(test_run.net, test_run.batches.test(), len(test_run.dataset.classes), world)
        for x in held:
            test_run.net(x).wait_to_read()
        watch.step(len(test_run.dataset.test))
    test_run.batches.close()


def main(out):
    flags = ["--data", args.data, "--weights", "none", "--dtype", "float32"]
    flags += ["--resume", "never", "--out", out, "--cache-dir", f"{out}/cache"]
    num_epochs = args.steps if args.part == "growth" else 1000  # else the clock ends the run
    flags += ["--batch-size", str(args.batch_size), "--epochs", str(num_epochs), *args.rest]
    config = cli.parse(flags)
    with startup.start(config.device, config.stall_timeout) as world:
        if args.part in KINDS:
            run.Run = KINDS[args.part]  # the one that `fit` uses
            with suppress(Enough):
                train.fit(config, world)
        elif args.part in ("evaluate", "net"):
            time_tests(config, world)
        else:
            time_loader(config, world)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dist_ft-benchmark-") as folder_of_run:
        main(folder_of_run)
