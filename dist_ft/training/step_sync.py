"""Synchronizes the ranks before every step and accumulates the epoch's sums.

One small reduction between the hosts carries the sum of the step's weights, the signals received,
whether a loss is not finite, the number of unreadable files, and the sums of a finished step. It
does not wait for the device, which runs up to two steps behind.
"""

from __future__ import annotations

import math
import signal
import time
from typing import Iterable, NamedTuple

import mxnet as mx

from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError
from dist_ft.evaluation.delayed_reader import DelayedReader
from dist_ft.training.state import EpochSums
from dist_ft.training.stop_signals import STOP_SIGNALS


class StepStatus(NamedTuple):
    """What all ranks agree on before a step."""

    weight_sum: float  # of the step's images on all ranks; their number without class weights
    num_unreadable: int  # files, in this epoch so far
    stop_signal: signal.Signals | None
    num_stopped: int  # ranks that received one
    resize: bool  # hosts were added to or removed from an elastic job


class StepSync:
    """Synchronizes the ranks, and adds finished steps to `sums`, which are equal on all ranks.

    waited_s: how long this rank has waited for its device.
    """

    def __init__(self, world: World, sums: EpochSums):
        self.sums = sums
        self.waited_s = 0.0
        self._world = world
        self._reader = DelayedReader()
        self._unsent = EpochSums()  # of steps that finished on this rank since the last exchange
        self._first_bad_step: int | None = None  # on this rank, with a loss that is not finite

    def push(self, sums: mx.nd.NDArray, num_images: int, step: int) -> None:
        """Takes a step's (loss sum, number correct) and number of images on this rank."""
        self._read(self._reader.push(sums, num_images, step))

    def exchange(
        self, weight_sum: float, num_unreadable: int, stop_signal: signal.Signals | None
    ) -> StepStatus:
        """Sums this rank's values over all ranks; every rank calls it before every step.

        Raises CollectiveError on all ranks if a loss on any rank is not finite.
        """
        is_bad, resize = self._first_bad_step is not None, self._world.session.resize_pending
        unsent = self._unsent
        values: list[float] = [weight_sum, num_unreadable, is_bad, resize]
        values += [unsent.loss_sum, unsent.correct, unsent.num_images]
        values += [stop_signal == signum for signum in STOP_SIGNALS]
        total = self._world.sum(values)
        if total[2]:
            self._raise_bad_step()
        self._unsent = EpochSums()
        self.sums.loss_sum += float(total[4])
        self.sums.correct += int(total[5])
        self.sums.num_images += int(total[6])
        received = [signum for signum, ranks in zip(STOP_SIGNALS, total[7:]) if ranks]
        return StepStatus(
            weight_sum=float(total[0]),
            num_unreadable=int(total[1]),
            stop_signal=received[0] if received else None,
            num_stopped=int(sum(total[7:])),
            resize=bool(total[3]),
        )

    def settle(self) -> None:
        """Brings the sums up to the last step; waits for the device."""
        self._read(self._reader.rest())
        self.exchange(0, 0, None)

    def _read(self, finished_steps: Iterable[tuple]) -> None:
        start = time.perf_counter()
        for (loss_sum, correct), num_images, step in finished_steps:
            if math.isfinite(loss_sum):
                self._unsent.loss_sum += float(loss_sum)
                self._unsent.correct += int(correct)
                self._unsent.num_images += num_images
            elif self._first_bad_step is None:
                self._first_bad_step = step
        self.waited_s += time.perf_counter() - start

    def _raise_bad_step(self) -> None:
        gathered = self._world.gather((self._first_bad_step, self._world.name))
        step, rank_name = min((step, name) for step, name in gathered if step is not None)
        raise CollectiveError(
            f"the loss of step {step} is not finite on {rank_name}; this step and later ones are"
            " not saved; resume from the last checkpoint with a smaller --lr, --warmup-epochs or"
            " --clip-norm"
        )
