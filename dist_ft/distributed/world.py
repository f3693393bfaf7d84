"""World: the ranks that carry a run, as seen from one of them. This class is the single process.

The training loop and everything else above this package use only this interface. `HorovodWorld`
implements it for the ranks of a Horovod job and `ElasticWorld` for ranks that come and go;
`startup.start` chooses between them.

All ranks make the same collective calls (`sum`, `gather`, `broadcast`, `raise_on_all_ranks` and the
trainer's `allreduce_grads`) in the same order. An error on one rank ends the job on all of them.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import mxnet as mx
import numpy as np

from dist_ft.distributed import devices
from dist_ft.distributed.session import Arrays, Session
from dist_ft.distributed.watchdog import Watchdog


class World:
    """A single process. Does not need Horovod.

    Attributes:
        rank, size: this process's number and the number of ranks, over all hosts.
        local_rank, local_size: the same among the ranks of this host.
        host: this host's name.
        ctx: the device that this rank computes on.
        waited_s: seconds spent in collective calls so far: waiting for other ranks and for data.
        session: what the run does when ranks fail or join.
    """

    rank = local_rank = 0
    size = local_size = 1
    waited_s = 0.0

    def __init__(self, device: str, stall_timeout_s: float):
        """Selects the device and starts the watchdog.

        device: auto, cpu or gpu; stall_timeout_s: how long this rank may make no progress. Raises
        UserError if the device is unavailable.
        """
        self.host = socket.gethostname()
        self.ctx = devices.select(device, self.local_rank, self.local_size)
        self.session = Session()
        self._watchdog = Watchdog(stall_timeout_s, self.name)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which writes the run's files and messages."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """For messages: "rank 1 of 4 on host"."""
        return f"rank {self.rank} of {self.size} on {self.host}"

    def heartbeat(self, where: str, allowed_s: float | None = None) -> None:
        """Reports progress to the watchdog.

        where: shown if the rank makes no progress from here on, such as "step 17"; allowed_s: how
        long the work from here to the next heartbeat may take (default: the stall timeout).
        """
        self._watchdog.heartbeat(where, allowed_s)

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """The sum of each value over the ranks: float64, exact for integers up to 2**53.

        Synchronizes the ranks, but does not wait for the device.
        """
        return np.array(values, np.float64)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank."""
        return [value]

    def broadcast(self, arrays: Arrays, root: int = 0) -> None:
        """Overwrites the arrays with those of rank `root`. Names and shapes must agree."""

    def trainer(
        self, params: mx.gluon.ParameterDict, optimizer: mx.optimizer.Optimizer
    ) -> mx.gluon.Trainer:
        """A trainer whose `allreduce_grads` reduces the gradients over the ranks."""
        return mx.gluon.Trainer(params, optimizer, kvstore=None)

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """For work that each rank does alone: an error on one rank raises CollectiveError on all.

        The body must not make collective calls. In a single process the error itself is raised.
        """
        yield

    def close(self) -> None:
        """Leaves the world in order, after a run that ends alike on all ranks."""
        self._watchdog.close()
