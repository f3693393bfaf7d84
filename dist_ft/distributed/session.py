"""Session: what a run does when ranks fail, leave or join. This class is for runs that then end.

`ElasticSession` is the other one. The training loop makes the same calls on both:

    while True:
        with world.session.survive_failures(), build_run(config, world) as run:
            ...     # commits now and then; raises WorldResized when resize_pending is seen by all
            return
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, NamedTuple

import mxnet as mx

Arrays = Dict[str, mx.nd.NDArray]  # by name


class Commit(NamedTuple):
    """A copy in host memory of a run's state; has the methods of checkpoint.Checkpoint."""

    state: Any  # a training.state.TrainingState, which has `step`
    net: Arrays
    trainer: Arrays

    def net_arrays(self) -> Arrays:
        return self.net

    def trainer_arrays(self) -> Arrays:
        return self.trainer


class Session:
    """A run that ends with the first rank failure.

    Attributes:
        last_commit: the state that a run resumes from after a failure; None before the first one.
        resize_pending: hosts were added or removed since the ranks connected.
        resized_from: for messages: the former number of ranks and their last step, such as "2 until
            step 17"; "" before the first change.
    """

    last_commit: Commit | None = None
    resize_pending = False
    resized_from = ""

    def commit(self, state: Any, net: Arrays, trainer: Arrays) -> None:
        """Copies the run's state, which must be the same on all ranks, to `last_commit`."""

    def ends_run(self, num_stop_requests: int) -> bool:
        """True if the run ends when this many ranks have received a stop signal."""
        return num_stop_requests > 0

    @contextmanager
    def survive_failures(self) -> Iterator[None]:
        """Swallows the error of a rank failure, or WorldResized, and connects the remaining ranks.

        After that the body is to be run again. Here every error is raised.
        """
        yield
