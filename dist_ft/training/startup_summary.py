"""What a run prints before its first step."""

from __future__ import annotations

from itertools import groupby
from typing import Iterator, Sequence

import mxnet as mx
import numpy as np

from dist_ft.data.dataset import Dataset
from dist_ft.distributed import devices
from dist_ft.distributed.world import World
from dist_ft.models import parameters, precision
from dist_ft.models.parameters import Group
from dist_ft.training.schedule import Plan

ADJECTIVES = {"train": "training", "val": "validation", "test": "test"}
MAX_RATES = 3  # with more learning rates in a part of the network, their range is printed


def describe_dataset(data: str, dataset: Dataset) -> Iterator[str]:
    """The number of classes and images, what selects the best epoch, and skipped files."""
    numbers = [f"{len(split)} {ADJECTIVES[name]} images" for name, split in dataset.splits.items()]
    yield f"{data}: {len(dataset.classes)} classes, {', '.join(numbers)}"
    if dataset.val is None:
        yield "the best epoch is selected on the test images; --val-share 0.1 avoids that"
    elif dataset.test is None:
        yield "the best epoch is selected on the validation images; there are no test images"
    skipped = [path for split in dataset.splits.values() for path in split.skipped]
    if skipped:
        yield f"skipped {len(skipped)} files without an image's extension: {', '.join(skipped[:5])}"


def describe_classes(
    dataset: Dataset, balance: bool, class_weights: Sequence[float] | None
) -> Iterator[str]:
    """What --balance and --class-weights do to the classes."""
    if balance:
        sizes = [size for size in np.bincount(dataset.train.labels) if size]
        drawn = len(dataset.train) / len(sizes)
        yield (
            f"an epoch draws {len(dataset.train)} images, {drawn:.4g} of each class: each image of"
            f" the smallest class {drawn / min(sizes):.3g} times, of the largest"
            f" {drawn / max(sizes):.3g} times"
        )
    if class_weights:
        by_weight = sorted(zip(class_weights, dataset.classes))
        (low, lightest), (high, heaviest) = by_weight[0], by_weight[-1]
        yield f"class weights from {low:.3g} ({lightest}) to {high:.3g} ({heaviest})"


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
    for name, groups in groupby(parameters.groups(core), lambda group: group.name):
        yield from _describe_rates(name, list(groups), peak_lr)


def _describe_rates(name: str, groups: Sequence[Group], peak_lr: float) -> Iterator[str]:
    """A line for each learning rate, or one for all of them if there are many.

    groups: with this name, those with the highest multiplier first.
    """
    trained = [group for group in groups if group.lr_mult]
    if len(trained) > MAX_RATES:
        num_values = sum(group.num_values for group in trained)
        lowest, highest = (peak_lr * group.lr_mult for group in (trained[-1], trained[0]))
        rates = f"learning rates {lowest:.3g} to {highest:.3g}"
        yield f"  {name:9}{num_values:>12,} parameters  {rates}"
        groups = [group for group in groups if not group.lr_mult]
    for group in groups:
        rate = f"learning rate {peak_lr * group.lr_mult:g}" if group.lr_mult else "frozen"
        yield f"  {group.name:9}{group.num_values:>12,} parameters  {rate}"
