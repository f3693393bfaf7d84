"""What a run says of itself before its first step."""

from __future__ import annotations

from typing import Any, Iterator

import mxnet as mx

from dist_ft.data.dataset import Dataset
from dist_ft.distributed import devices
from dist_ft.models import parameters
from dist_ft.training.schedule import Plan


def about_images(data: str, folder: Dataset) -> Iterator[str]:
    """How many there are, and what is no image."""
    yield (
        f"{data}: {len(folder.classes)} classes, {len(folder.train)} images to train on,"
        f" {len(folder.test)} to test on"
    )
    skipped = folder.train.skipped + folder.test.skipped
    if skipped:
        yield f"{len(skipped)} files are no images by their name: {', '.join(skipped[:5])}"


def about_device(asked: str, ctx: mx.Context) -> Iterator[str]:
    """What keeps a run from the GPU that it is meant for; `asked` is --device."""
    if asked == "auto" and ctx.device_type == "cpu" and devices.built_for_cuda():
        yield f"MXNet is built for GPUs and sees no GPU: {devices.gpu_remedy()}"


def about_network(
    name: str, net: mx.gluon.Block, dtype: str, plan: Plan, peak_lr: float, world: Any
) -> Iterator[str]:
    """Where it computes, in which steps, and at which rate each of its parts learns."""
    yield (
        f"{name} on {world.size} x {world.ctx} in {dtype}, {plan.batch_size} images a step,"
        f" {plan.steps_per_epoch} steps an epoch"
    )
    if plan.batch_size < world.size:
        yield f"more ranks than images a step: {world.size - plan.batch_size} idle"
    for group in parameters.groups(net):
        rate = f"rate {peak_lr * group.lr_mult:g}" if group.lr_mult else "frozen"
        yield f"  {group.name:9}{group.num_values:>12,} parameters  {rate}"
