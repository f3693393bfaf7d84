"""The learning-rate range test: a run whose learning rate grows from step to step.

See Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3. As in fastai's
`lr_find`, the rate grows exponentially, and the test ends when the loss has grown to a multiple.
"""

from __future__ import annotations

import logging
import math
from itertools import count
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence

import mxnet as mx
import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from dist_ft.data.loader import Batch
from dist_ft.errors import UserError
from dist_ft.files import output_file
from dist_ft.training.run import Run

LOWEST, HIGHEST = 1e-5, 1.0
SMOOTHING_DECADES = 0.2  # standard deviation of the Gaussian that smooths the losses
MAX_GROWTH = 4.0  # of the smoothed loss over its minimum: the test ends
MAX_ROWS = 20  # losses that are printed

Result = Dict[str, Any]  # plain values

logger = logging.getLogger(__name__)


def measure_run(
    run: Run,
    train_on: Callable[[Batch], mx.nd.NDArray],
    batches: Iterator[Batch],
    num_steps: int,
) -> Result:
    """Makes the steps with the run's ranks, and prints some of the losses; all ranks call it.

    train_on: makes a step, and returns what train_step returns.
    """
    numbers, row_every = count(), -(-num_steps // MAX_ROWS)

    def loss_at(rate: float) -> float:
        run.world.heartbeat(f"learning rate {rate:.2g}")
        run.trainer.set_learning_rate(rate)
        batch = next(batches)
        loss_sum, _ = train_on(batch).asnumpy()
        total, weight_sum = run.world.sum([loss_sum, batch.weight_sum])
        loss = float(total / (weight_sum or 1))
        if next(numbers) % row_every == 0:  # on the way, because the steps may take minutes
            run.logger.info(f"learning rate {rate:.2e}  loss {loss:.4f}")
        return loss

    return measure(loss_at, num_steps)


def measure(loss_at: Callable[[float], float], num_steps: int) -> Result:
    """Makes up to `num_steps` steps with growing rates, and suggests a rate.

    loss_at: makes a training step with a learning rate, and returns the mean loss of its images
    before the update. Raises UserError if the first loss is not finite.
    """
    rates, losses, smoothed = [], [], []
    for rate in np.geomspace(LOWEST, HIGHEST, num_steps).tolist():
        loss = loss_at(rate)
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        smoothed = smooth(rates, losses)
        if smoothed[-1] > MAX_GROWTH * min(smoothed):
            break
    if not rates:
        raise UserError(f"the loss of the first step is not finite, with a rate of {LOWEST:g}")
    return {"rates": rates, "losses": losses, "smoothed": smoothed, **suggest(rates, smoothed)}


def smooth(rates: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The losses, averaged over neighboring rates."""
    if len(rates) < 2:
        return list(losses)
    steps_per_decade = 1 / math.log10(rates[1] / rates[0])
    return gaussian_filter1d(losses, SMOOTHING_DECADES * steps_per_decade, mode="nearest").tolist()


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> dict[str, float]:
    """The rate at which the smoothed loss falls most steeply, which is suggested, and the one at
    which it is smallest."""
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed) if len(smoothed) > 1 else np.zeros(1)
    steepest = rates[int(np.argmin(slopes[: lowest + 1]))]
    return {"suggestion": steepest, "minimum": rates[lowest]}


def report(result: Mapping[str, Any]) -> str:
    """The suggestion, and the end of the useful range."""
    return (
        f"the smoothed loss is smallest at {result['minimum']:.2g}, and falls most steeply at"
        f" {result['suggestion']:.2g}\nsuggestion: --lr {result['suggestion']:.2g}"
    )


def write_plot(result: Mapping[str, Any], path: Path | None) -> None:
    """Writes the losses by learning rate as a PNG file, if it has a name; raises UserError."""
    if path is None:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(result["rates"], result["losses"], ".", color="#bbbbbb", label="loss of a step")
    axes.plot(result["rates"], result["smoothed"], color="#d62728", label="smoothed")
    axes.axvline(
        result["suggestion"],
        color="#1f77b4",
        linestyle="--",
        label=f"suggestion: {result['suggestion']:.2g}",
    )
    low, high = min(result["losses"]), max(result["smoothed"])
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with output_file(path, "--plot") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    logger.info("plot: %s", path)
