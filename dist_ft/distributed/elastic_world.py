"""ElasticWorld: ranks that survive the loss of others and accept new ones, without a restart.

Horovod's elastic driver starts and watches the processes (launch/elastic.sh). What happens on a
failure is in elastic_session.py; here is what the collectives need so that a failure is survivable.
"""

from __future__ import annotations

import os
from collections import defaultdict

import mxnet as mx
import numpy as np

from dist_ft.distributed.elastic_session import ElasticSession
from dist_ft.distributed.freeze_guard import FreezeGuard
from dist_ft.distributed.horovod_settings import HorovodSettings
from dist_ft.distributed.horovod_world import HorovodWorld
from dist_ft.distributed.session import Arrays
from dist_ft.distributed.trainer import HookedTrainer
from dist_ft.errors import UserError


class ElasticWorld(HorovodWorld):
    """The ranks of an elastic Horovod job."""

    def __init__(self, device: str, stall_timeout_s: float, settings: HorovodSettings):
        if "HOROVOD_ELASTIC" not in os.environ:
            raise UserError(
                "--elastic: these processes were not started by launch/elastic.sh; use it, or omit"
                " the flag"
            )
        super().__init__(device, stall_timeout_s, settings._replace(num_groups=1))
        from horovod.common.elastic import notification_manager

        self.session = ElasticSession(self)
        notification_manager.init()
        notification_manager.register_listener(self.session)
        # In a collective, a rank outlives the hang of another: until that one's watchdog ends it,
        # or until Gloo gives up a rank that does not answer.
        gloo_timeout_s = float(os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS", 30))
        self._watchdog.extra_wait_s = max(stall_timeout_s, gloo_timeout_s)
        self._guard = FreezeGuard(stall_timeout_s)

    def broadcast(self, arrays: Arrays, root: int = 0) -> None:
        """Broadcasts one packed array per type, so that few operations fail with a lost rank.

        See `trainer` for the reason.
        """
        by_type = defaultdict(list)
        for name in sorted(arrays):
            by_type[np.dtype(arrays[name].dtype).name].append(arrays[name])
        for dtype, group in sorted(by_type.items()):
            packed = mx.nd.concat(*[array.reshape(-1) for array in group], dim=0)
            super().broadcast({dtype: packed}, root)
            begin = 0
            for array in group:
                array[:] = packed[begin : begin + array.size].reshape(array.shape)
                begin += array.size

    def trainer(
        self, params: mx.gluon.ParameterDict, optimizer: mx.optimizer.Optimizer
    ) -> HookedTrainer:
        """A trainer that reduces all gradients in one operation and waits for it.

        MXNet appends every failed operation to a list without a lock, on the thread where it fails.
        When a rank is lost in the middle of many reductions, some fail on Horovod's thread and
        others on MXNet's, while the waiting thread reads the list: of 60 ranks that survived a loss
        during 800 reductions, 8 crashed or hung; of 135 with one grouped reduction, none.
        """
        return HookedTrainer(
            super().trainer(params, optimizer), after_allreduce=self._wait_for_gradients
        )

    def _wait_for_gradients(self) -> None:
        with self._waiting():
            mx.nd.waitall()

    def reconnect(self) -> None:
        """Connects to the ranks that Horovod's driver currently has; all collectives must be over.

        Raises UserError if the driver no longer counts on this rank.
        """
        self._hvd.shutdown()
        try:
            self._hvd.init()
        except ValueError as error:
            raise UserError(
                "the other ranks continue without this one: its host was removed from the job, or"
                f" cannot be reached ({error})"
            ) from error
        self._update_rank()
        self._watchdog.name = self.name

    @property
    def progress(self) -> str:
        """Where the last heartbeat was, such as "step 17"."""
        return self._watchdog.where

    @property
    def stall_timeout_s(self) -> float:
        return self._watchdog.timeout_s

    def close(self) -> None:
        self._guard.close()
        super().close()
