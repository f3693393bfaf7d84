"""ElasticSession: a run survives rank failures and accepts new ranks, in the same processes.

When a rank is lost, the collective that the others are in fails. They reconnect and resume from the
last commit; the steps since then are repeated. New hosts are added between two steps, and nothing
is repeated. Since a step is a function of its number, the run stays the same run.

Everything that depends on the ranks is rebuilt with the Run, including the trainer: without NCCL a
DistributedTrainer divides by the number of ranks that there were when it was created.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator

import mxnet as mx

from dist_ft.distributed.connections import close_connections
from dist_ft.distributed.rank_failure import is_rank_failure
from dist_ft.distributed.session import Arrays, Commit, Session
from dist_ft.errors import WorldResized

if TYPE_CHECKING:
    from dist_ft.distributed.elastic_world import ElasticWorld

DRIVER_TIMEOUT_S = 600.0  # how long the driver waits for hosts: horovodrun's --elastic-timeout
MAX_FAILURES = 10  # between two commits; more are probably caused by the step itself
MAX_PENDING_ERRORS = 100  # of MXNet's operations; enough for all parameters of a network


class ElasticSession(Session):
    """A run that continues with the ranks that remain, or with those that have joined."""

    def __init__(self, world: ElasticWorld):
        self._world = world
        self._num_failures = 0  # since the last commit that made progress

    def on_hosts_updated(self, timestamp: int, update: int) -> None:
        """Called by Horovod on rank 0, on another thread, when hosts were added or removed."""
        self.resize_pending = True

    def commit(self, state: Any, net: Arrays, trainer: Arrays) -> None:
        net_copy = {name: array.copyto(mx.cpu()) for name, array in net.items()}
        trainer_copy = {name: array.copyto(mx.cpu()) for name, array in trainer.items()}
        mx.nd.waitall()  # raises the error of a failed step before it can be committed
        if self.last_commit and state.step > self.last_commit.state.step:
            self._num_failures = 0
        self.last_commit = Commit(state, net_copy, trainer_copy)

    def ends_run(self, num_stop_requests: int) -> bool:
        return num_stop_requests == self._world.size

    @contextmanager
    def survive_failures(self) -> Iterator[None]:
        try:
            yield
            return
        except WorldResized:
            pass
        except mx.MXNetError as error:
            self._num_failures += 1
            if not is_rank_failure(error) or self._num_failures > MAX_FAILURES:
                raise
            close_connections()
        self._reconnect()

    def _reconnect(self) -> None:
        world = self._world
        self.resized_from = f"{world.size} until {world.progress}"
        world.heartbeat("connecting to the other ranks", DRIVER_TIMEOUT_S + world.stall_timeout_s)
        _wait_for_all_operations()
        self.resize_pending = False  # before reconnecting: the driver may set it at any time
        world.reconnect()


def _wait_for_all_operations() -> None:
    """Waits until MXNet is idle. Each wait raises the error of one failed operation."""
    for _ in range(MAX_PENDING_ERRORS):
        try:
            mx.nd.waitall()
            return
        except mx.MXNetError:
            continue
