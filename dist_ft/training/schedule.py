"""Steps, epochs and the learning rate: arithmetic on the step's number, nothing that drifts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Iterator


@dataclass(frozen=True)
class Plan:
    """Which steps a run has. Step k of an epoch takes images k*batch_size... of its order; the
    epoch's last step takes what is left, so that every image is seen once."""

    num_images: int
    batch_size: int  # images a step, over all ranks
    epochs: int
    max_steps: int = 0  # 0: no limit

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    @property
    def num_steps(self) -> int:
        whole = self.epochs * self.steps_per_epoch
        return min(whole, self.max_steps) if self.max_steps else whole

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def epochs_from(self, step: int) -> Iterator[tuple[int, range]]:
        """(epoch, its steps still to be done) from a step to the end of the run."""
        while step < self.num_steps:
            epoch = self.epoch_of(step)
            end = min((epoch + 1) * self.steps_per_epoch, self.num_steps)
            yield epoch, range(step, end)
            step = end

    def images_of(self, step: int) -> slice:
        """The positions in the epoch's order of a step's images, all ranks together."""
        start = step % self.steps_per_epoch * self.batch_size
        return slice(start, min(start + self.batch_size, self.num_images))


@dataclass(frozen=True)
class Rate:
    """The learning rate as a function of the step."""

    peak: float
    num_steps: int
    kind: str = "constant"  # step, cosine, poly
    warmup_steps: int = 0
    drop_steps: tuple[int, ...] = ()  # where the step schedule multiplies by drop_factor
    drop_factor: float = 0.1
    power: float = 2.0

    def at(self, step: int) -> float:
        """The rate of a step: linear warm-up that reaches the peak at `warmup_steps` (Goyal et
        al. 2017, section 2.2), then constant, stepwise, half a cosine to 0 (Loshchilov and
        Hutter 2017, without restarts), or (1 - progress) ** power."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        if self.kind == "step":
            return self.peak * self.drop_factor ** sum(step >= drop for drop in self.drop_steps)
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        if self.kind == "cosine":
            return self.peak * (1 + math.cos(math.pi * progress)) / 2
        return self.peak * (1 - progress) ** self.power


def scaled(batch_size: int, lr: float, size: int, scaling: str) -> tuple[int, float]:
    """(batch size, rate) when the batch grows with the number of ranks: the rate grows as much
    (linear: Goyal et al. 2017), with its square root (sqrt: Krizhevsky 2014), or not (none)."""
    growth = {"linear": size, "sqrt": math.sqrt(size), "none": 1.0}[scaling]
    return batch_size * size, lr * growth


def of(config: Any, num_images: int, size: int) -> tuple[Plan, Rate]:
    """The steps of a run on that many training images and ranks, and the rate at each.

    config: a config.Config.
    """
    batch_size, lr = config.batch_size, config.lr
    if config.scale_batch:
        batch_size, lr = scaled(batch_size, lr, size, config.lr_scaling)
    plan = Plan(num_images, batch_size, config.epochs, config.max_steps)
    warmup = config.warmup_epochs
    if warmup is None:
        warmup = min(5, config.epochs) if config.scale_batch else 0
    rate = Rate(
        lr,
        config.epochs * plan.steps_per_epoch,
        config.schedule,
        round(warmup * plan.steps_per_epoch),
        tuple(round(epoch * plan.steps_per_epoch) for epoch in config.step_epochs),
        config.step_factor,
        config.poly_power,
    )
    return plan, rate
