"""What the ranks tell each other before every step, and the epoch's sums that come of it.

One small reduction on the hosts carries how many images the step has, who was asked to stop, whose
loss is not finite, how many files were unreadable, and the sums of a step that is over. It is no
sync point with the device, which is two steps behind.
"""

from __future__ import annotations

import math
import signal
import time
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, NamedTuple

import mxnet as mx

from dist_ft.errors import CollectiveError
from dist_ft.evaluation.evaluator import DelayedReader

# Signals that ask for a stop, with the exit status that follows; of several the first is obeyed.
# USR1 is what batch systems send when a job's time runs out: 75, EX_TEMPFAIL, asks for another go.
STOPS = {
    signal.SIGHUP: 128 + signal.SIGHUP,  # a terminal, or an ssh, that is gone
    signal.SIGTERM: 128 + signal.SIGTERM,
    signal.SIGINT: 128 + signal.SIGINT,
    signal.SIGUSR1: 75,
}


class StepStatus(NamedTuple):
    """What all ranks know alike before a step."""

    num_images: int  # of the step, on all ranks
    num_bad: int  # unreadable files met in this epoch
    stop: signal.Signals | None  # that some rank was sent
    num_asked: int  # ranks that were sent one
    resize: bool  # hosts have come or gone


class StepSync:
    """The sums of an epoch's finished steps, over all ranks: the same numbers on each.

    waited_s: how long this rank has waited for its device.
    """

    def __init__(self, world: Any):
        self._world = world
        self.waited_s = 0.0
        self._behind = DelayedReader()
        self.start_epoch()

    def start_epoch(self, loss_sum: float = 0.0, correct: int = 0, num_images: int = 0) -> None:
        self.loss_sum, self.correct, self.num_images = loss_sum, correct, num_images
        self._mine = [0.0, 0, 0]  # finished here, not yet told: loss, correct, images
        self._bad_step: int | None = None  # the first one here with a loss that is not finite

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.num_images)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.num_images)

    def as_dict(self) -> dict[str, float]:
        names = "loss_sum", "correct", "num_images"
        return {name: getattr(self, name) for name in names}

    def push(self, sums: mx.nd.NDArray, num_images: int, step: int) -> None:
        """Takes a step's (loss sum, number correct) here, and its images here."""
        self._take(self._behind.push(sums, num_images, step))

    def exchange(self, num_images: int, num_bad: int, stop: signal.Signals | None) -> StepStatus:
        """Tells the other ranks, and hears them; every rank calls it before every step.

        Raises CollectiveError on all ranks where a loss has ceased to be finite on one.
        """
        asks = [stop == signum for signum in STOPS]
        flags = self._bad_step is not None, self._world.session.resize_pending
        mine = [num_images, num_bad, *flags, *self._mine, *asks]
        heard = self._world.sum(mine)
        if heard[2]:
            self._raise_bad_step()
        self._mine = [0.0, 0, 0]
        self.loss_sum += float(heard[4])
        self.correct += int(heard[5])
        self.num_images += int(heard[6])
        asked = next((signum for signum, ranks in zip(STOPS, heard[7:]) if ranks), None)
        return StepStatus(int(heard[0]), int(heard[1]), asked, int(sum(heard[7:])), bool(heard[3]))

    def settle(self) -> None:
        """Brings the sums up to the last step; a sync point with the device."""
        self._take(self._behind.rest())
        self.exchange(0, 0, None)

    def _take(self, steps: Iterable[tuple]) -> None:
        since = time.perf_counter()
        for finished in steps:
            self._finish(*finished)
        self.waited_s += time.perf_counter() - since

    def _finish(self, sums, num_images: int, step: int) -> None:
        loss, correct = (float(value) for value in sums)
        if not math.isfinite(loss):
            self._bad_step = step if self._bad_step is None else self._bad_step
            return
        self._mine = [
            self._mine[0] + loss,
            self._mine[1] + int(correct),
            self._mine[2] + num_images,
        ]

    def _raise_bad_step(self) -> None:
        told = [
            (step, name)
            for step, name in self._world.gather((self._bad_step, self._world.name))
            if step is not None
        ]
        step, name = min(told)
        raise CollectiveError(
            f"the loss of step {step} is not finite on {name}: nothing of this step or after it"
            " is kept; go on from the last checkpoint with a smaller --lr, --warmup-epochs or"
            " --clip-norm"
        )


class StopRequest:
    """One of STOPS, remembered until the ranks have agreed on a step to stop at."""

    received: signal.Signals | None = None

    def __call__(self, signum: int, frame: Any) -> None:
        if self.received == signum == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C means now
        self.received = self.received or signal.Signals(signum)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catches those signals in the body; not a SIGHUP that nohup has had ignored."""
    request = StopRequest()
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    caught = [signum for signum in STOPS if not (is_nohup and signum == signal.SIGHUP)]
    old = {signum: signal.signal(signum, request) for signum in caught}
    try:
        yield request
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
