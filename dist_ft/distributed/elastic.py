"""A world that outlives the loss of ranks and takes in new ones, in the same processes.

Horovod's elastic driver starts and watches the processes (launch/elastic.sh). When one is lost the
others fail in the collective that they are in, come together anew, and go on from the last state
that they have kept in memory; the steps since then are made again. New hosts are taken in between
two steps, and none is repeated. Since a step is a function of its number, the run is the same run.

All that depends on the ranks is made anew with the Run, and with it the trainer: without NCCL a
DistributedTrainer divides by the number of ranks that there were when it was made.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np

from dist_ft.distributed.horovod_settings import HorovodSettings
from dist_ft.distributed.startup import Arrays, HorovodWorld, is_loss
from dist_ft.errors import RankStopped, UserError, WorldResized

# A status of more than 128 says that nothing was heard in time; less, that the process has ended.
GUARD = """
trap '' INT TERM
while read -r -t "$1"; status=$?; [ $status = 0 ]; do :; done
[ $status -le 128 ] || kill -KILL "$2"
"""
DRIVER_WAITS_S = 600.0  # for hosts to be there: horovodrun's --elastic-timeout
MOST_LOSSES = 10  # from one commit to the next: more would be a fault that comes with the step


class Commit(NamedTuple):
    """A checkpoint in memory, see checkpoint.Checkpoint."""

    state: dict[str, Any]
    net: Arrays  # in the host's memory
    trainer: Arrays

    def net_arrays(self) -> Arrays:
        return self.net

    def trainer_arrays(self) -> Arrays:
        return self.trainer


class ElasticWorld(HorovodWorld):
    """The ranks of an elastic Horovod job."""

    def __init__(self, device: str, stall_timeout: float, tuning: HorovodSettings):
        if "HOROVOD_ELASTIC" not in os.environ:
            raise UserError("--elastic: these processes were not started by launch/elastic.sh")
        super().__init__(device, stall_timeout, tuning._replace(num_groups=1))
        from horovod.common.elastic import notification_manager

        notification_manager.init()
        notification_manager.register_listener(self)
        self._losses = 0
        # Until the rank that hangs has been ended, or Gloo gives up one that no longer answers.
        gives_up_s = float(os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS", 30))
        self._watchdog.waits_longer_s = max(stall_timeout, gives_up_s)
        self._guard = Guard(stall_timeout)

    def on_hosts_updated(self, timestamp: int, update: int) -> None:
        """Horovod's driver calls it, on rank 0 and a thread of its own."""
        self.is_to_resize = True

    def keep(self, state, net, trainer):
        copies = [{k: a.copyto(mx.cpu()) for k, a in arrays.items()} for arrays in (net, trainer)]
        mx.nd.waitall()  # a step that fails must not have been kept
        if self.kept and state["step"] > self.kept.state["step"]:
            self._losses = 0
        self.kept = Commit(state, *copies)

    def stops(self, num_asked):
        return num_asked == self.size

    def broadcast(self, arrays, root=0):
        """By one operation for each type, so that few fail with a loss: see `trainer`."""
        by_type = defaultdict(list)
        for name in sorted(arrays):
            by_type[np.dtype(arrays[name].dtype).name].append(arrays[name])
        for dtype, alike in sorted(by_type.items()):
            packed = mx.nd.concat(*(array.reshape(-1) for array in alike), dim=0)
            super().broadcast({dtype: packed}, root)
            ends = np.cumsum([0, *(array.size for array in alike)])
            for array, begin, end in zip(alike, ends, ends[1:]):
                array[:] = packed[begin:end].reshape(array.shape)

    def trainer(self, params, optimizer, **_):
        """A trainer whose gradients are there, on all ranks, before an update begins.

        MXNet notes each operation that fails in a list that has no lock, on the thread that it
        fails on. Of many sums that a lost rank leaves undone some fail on Horovod's thread and
        others on MXNet's, at once, and what waits for them looks through the list meanwhile: of
        60 ranks that lost another in 800 sums eight crashed or hung, of 135 in one grouped sum
        none. So all gradients are one group here, and nothing is begun before it is over.
        """
        trainer = super().trainer(params, optimizer)
        allreduce = trainer.allreduce_grads

        def allreduce_and_wait() -> None:
            allreduce()
            with self._waiting():
                mx.nd.waitall()

        trainer.allreduce_grads = allreduce_and_wait
        return trainer

    @contextmanager
    def survive_failures(self):
        try:
            yield
            return
        except WorldResized:
            pass
        except mx.MXNetError as error:
            self._losses += 1
            if not is_loss(error) or self._losses > MOST_LOSSES:
                raise
            _hang_up()
        self._come_together()

    def fail(self, error):
        if isinstance(error, RankStopped):
            self._hvd.shutdown()  # as the others do: none of them is in a sum that this would fail
        super().fail(error)

    def close(self):
        self._guard.close()
        super().close()

    def _come_together(self) -> None:
        self.were = f"{self.size} until {self._watchdog.place}"
        self.heartbeat(
            "coming together with other ranks", DRIVER_WAITS_S + self._watchdog.timeout_s
        )
        _drain()
        self.is_to_resize = False  # before, since the driver may say so again at any time
        self._hvd.shutdown()
        try:
            self._hvd.init()
        except ValueError as error:
            raise UserError(
                "the other ranks go on without this one: its host was taken out of the job, or it"
                f" could not be reached ({error})"
            ) from error
        self._find_place()
        self._watchdog.who = self.name


def _hang_up() -> None:
    """Ends the connections to other ranks. Horovod leaves them open, and a rank that waits for this
    one in a sum that it will never make would do so until Gloo's timeout."""
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # that of the listing itself
            continue
        try:
            connection = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            continue
        with connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue  # the process's own affair, as its output may be
            with suppress(OSError):
                connection.getpeername()  # one that listens has none, and is left alone
                connection.shutdown(socket.SHUT_RDWR)


def _drain() -> None:
    """Waits for all that MXNet has been given to do; each failure of it is raised once."""
    for _ in range(100):
        try:
            mx.nd.waitall()
            return
        except mx.MXNetError:
            continue


class Guard:
    """A process that ends this one where it was frozen, and no watchdog of its own can: the driver
    waits for whatever lives before it lets the others go on."""

    def __init__(self, timeout_s: float):
        words = ["bash", "-c", GUARD, "guard", str(timeout_s), str(os.getpid())]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE)
        self._done = threading.Event()
        self._beats_s = timeout_s / 4
        threading.Thread(target=self._live, name="guard", daemon=True).start()

    def _live(self) -> None:
        while not self._done.wait(self._beats_s):
            with suppress(BrokenPipeError):
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()

    def close(self) -> None:
        self._done.set()
        self._process.kill()
        self._process.wait()
