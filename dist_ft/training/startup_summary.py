"""What a run prints before its first step."""

from __future__ import annotations

from typing import Iterator

import mxnet as mx

from dist_ft.data.dataset import Dataset
from dist_ft.distributed import devices
from dist_ft.distributed.world import World
from dist_ft.models import parameters, precision
from dist_ft.training.schedule import Plan


def describe_dataset(data: str, dataset: Dataset) -> Iterator[str]:
    """The number of classes and images, and files that were skipped."""
    yield (
        f"{data}: {len(dataset.classes)} classes, {len(dataset.train)} training images,"
        f" {len(dataset.test)} test images"
    )
    skipped = dataset.train.skipped + dataset.test.skipped
    if skipped:
        yield f"skipped {len(skipped)} files without an image's extension: {', '.join(skipped[:5])}"


def describe_device(device: str, ctx: mx.Context, dtype: str) -> Iterator[str]:
    """Warnings: MXNet was built for GPUs and sees none, or dtype is slow here; device: --device."""
    if device == "auto" and ctx.device_type == "cpu" and devices.built_for_cuda():
        yield f"MXNet is built for GPUs and sees no GPU: {devices.gpu_remedy()}"
    if not precision.supports(ctx, dtype):
        yield (
            f"--dtype {dtype} is slower than float32 on this processor, which has neither"
            " AVX512-BF16 nor AMX and emulates it"
        )


def describe_network(
    model: str, core: mx.gluon.Block, dtype: str, plan: Plan, peak_lr: float, world: World
) -> Iterator[str]:
    """Devices, batch size and steps, and the learning rate of each group of parameters."""
    yield (
        f"{model} on {world.size} x {world.ctx} in {dtype}, {plan.batch_size} images per step,"
        f" {plan.steps_per_epoch} steps per epoch"
    )
    if plan.batch_size < world.size:
        yield f"more ranks than images per step: {world.size - plan.batch_size} are idle"
    for group in parameters.groups(core):
        rate = f"learning rate {peak_lr * group.lr_mult:g}" if group.lr_mult else "frozen"
        yield f"  {group.name:9}{group.num_values:>12,} parameters  {rate}"
