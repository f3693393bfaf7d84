"""Steps, epochs and the learning rate: pure functions of the step's number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator

from dist_ft.recipe_settings import RecipeSettings

DEFAULT_WARMUP_EPOCHS = 5  # with --scale-batch: Goyal et al. 2017, section 2.2


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Step k of an epoch takes images k * batch_size... of the epoch's order. The last step takes the
    rest, so every image is seen once.
    """

    num_images: int
    batch_size: int  # images per step, over all ranks
    epochs: int
    max_steps: int = 0  # 0: no limit

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    @property
    def num_steps(self) -> int:
        total = self.epochs * self.steps_per_epoch
        return min(total, self.max_steps) if self.max_steps else total

    def epoch_of(self, step: int) -> int:
        """The epoch of a step; both are counted from 0."""
        return step // self.steps_per_epoch

    def ends_epoch(self, num_steps: int) -> bool:
        """True if an epoch is complete after so many steps."""
        return num_steps % self.steps_per_epoch == 0

    def epochs_from(self, step: int) -> Iterator[tuple[int, range]]:
        """(epoch, its remaining steps) from a step to the end of the run."""
        while step < self.num_steps:
            epoch = self.epoch_of(step)
            end = min((epoch + 1) * self.steps_per_epoch, self.num_steps)
            yield epoch, range(step, end)
            step = end

    def images_of(self, step: int) -> slice:
        """Positions in the epoch's order of the step's images on all ranks."""
        start = step % self.steps_per_epoch * self.batch_size
        return slice(start, min(start + self.batch_size, self.num_images))


@dataclass(frozen=True)
class LearningRate:
    """The learning rate as a function of the step."""

    peak: float
    num_steps: int
    schedule: str = "constant"  # or step, cosine, poly
    warmup_steps: int = 0
    drop_steps: tuple[int, ...] = ()  # at which the step schedule multiplies by drop_factor
    drop_factor: float = 0.1
    power: float = 2.0

    def at(self, step: int) -> float:
        """The learning rate of a step.

        A linear warm-up reaches the peak after `warmup_steps` (Goyal et al. 2017, section 2.2).
        Then it is constant, drops stepwise, follows half a cosine to 0 (Loshchilov and Hutter 2017,
        without restarts), or is (1 - progress) ** power times the peak.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.peak
        if self.schedule == "step":
            return self.peak * self.drop_factor ** sum(step >= drop for drop in self.drop_steps)
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        if self.schedule == "cosine":
            return self.peak * (1 + math.cos(math.pi * progress)) / 2
        return self.peak * (1 - progress) ** self.power


def scale_batch(batch_size: int, lr: float, num_ranks: int, lr_scaling: str) -> tuple[int, float]:
    """(batch size, learning rate) if the batch grows with the number of ranks.

    The learning rate grows by the same factor (linear: Goyal et al. 2017), its square root (sqrt:
    Krizhevsky 2014), or not at all (none).
    """
    growth = {"linear": num_ranks, "sqrt": math.sqrt(num_ranks), "none": 1.0}[lr_scaling]
    return batch_size * num_ranks, lr * growth


def build_schedule(
    recipe: RecipeSettings, batch_size: int, num_images: int, num_ranks: int
) -> tuple[Plan, LearningRate]:
    """The steps of a run and their learning rate."""
    lr, warmup_epochs = recipe.lr, recipe.warmup_epochs
    if recipe.scale_batch:
        batch_size, lr = scale_batch(batch_size, lr, num_ranks, recipe.lr_scaling)
    if warmup_epochs is None:
        warmup_epochs = min(DEFAULT_WARMUP_EPOCHS, recipe.epochs) if recipe.scale_batch else 0
    plan = Plan(num_images, batch_size, recipe.epochs, recipe.max_steps)
    learning_rate = LearningRate(
        lr,
        recipe.epochs * plan.steps_per_epoch,
        recipe.schedule,
        round(warmup_epochs * plan.steps_per_epoch),
        tuple(round(epoch * plan.steps_per_epoch) for epoch in recipe.step_epochs),
        recipe.step_factor,
        recipe.poly_power,
    )
    return plan, learning_rate
