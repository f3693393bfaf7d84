"""The world of a run: one process, or the ranks of a Horovod job, behind one interface.

All ranks walk together or fall together: each makes the same collective calls in the same order,
and an error on one ends them all, with that rank's words shown once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, Sequence

import mxnet as mx
import numpy as np

from dist_ft.distributed import launcher
from dist_ft.distributed.devices import choose, count_gpus
from dist_ft.distributed.horovod_settings import PLAIN, TIMELINE, HorovodSettings, begin
from dist_ft.distributed.watchdog import Watchdog
from dist_ft.errors import CollectiveError, UserError

Arrays = Dict[str, mx.nd.NDArray]

# What Horovod, Gloo and NCCL say of a rank that is no longer there. Of Gloo's "[pair.cc:589] Read
# error [127.0.0.1]:37533: ..." MXNet makes a place in a program: File "Read error
# [127.0.0.1]", line 37533.
LOSSES = (
    *("Horovod has been shut down", "gloo/transport", "[gloo]", "Read error [", "writev ["),
    *("NCCL async error", "unhandled system error", "remote process exited"),
)
ASKED_EVERY_S = 0.001  # whether all ranks have come, where MPI itself would keep a core busy


class World:
    """A world of one process. Horovod need not be installed for it."""

    rank = local_rank = 0
    size = local_size = 1
    is_to_resize = False  # whether hosts have come or gone since the ranks came together
    kept: Any = None  # what `keep` was last given, in the form of a checkpoint
    were = ""  # how many ranks there were before, and where they parted
    waited_s = 0.0  # in collective calls: for the other ranks, and for what they send

    def __init__(self, device: str, stall_timeout: float):
        self.host = socket.gethostname()
        self.ctx = choose(device, self.local_rank, self.local_size)
        self._watchdog = Watchdog(stall_timeout, self.name)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run's files."""
        return self.rank == 0

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.size} on {self.host}"

    def heartbeat(self, place: str, allowed_s: float | None = None) -> None:
        """Tells the watchdog of progress, and how long the next may take (default: its timeout)."""
        self._watchdog.heartbeat(place, allowed_s)

    def sum(self, values: Sequence[float]) -> np.ndarray:
        """float64: the sum of each value over the ranks; exact for integers up to 2**53.

        A sync point among the ranks, not with the device.
        """
        return np.array(values, np.float64)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks."""
        return [value]

    def broadcast(self, arrays: Arrays, root: int = 0) -> None:
        """Overwrites the arrays by those of rank `root`; their names and shapes must agree."""

    def trainer(self, params, optimizer: mx.optimizer.Optimizer, **_) -> mx.gluon.Trainer:
        """A trainer that reduces gradients over the ranks."""
        return mx.gluon.Trainer(params, optimizer, kvstore=None)

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """For what each rank does by itself: an error on one is raised on all, as CollectiveError.

        The body must make no collective call.
        """
        yield

    @contextmanager
    def survive_failures(self) -> Iterator[None]:
        """For a run that may lose ranks: where that is no reason to end, the loss is not raised,
        and the world has other ranks after the body."""
        yield

    def keep(self, state: dict[str, Any], net: Arrays, trainer: Arrays) -> None:
        """Takes a copy of a run's state, for a run that outlives the loss of ranks."""

    def stops(self, num_asked: int) -> bool:
        """Whether the run ends when so many ranks were asked to stop."""
        return num_asked > 0

    def close(self) -> None:
        self._watchdog.close()

    def fail(self, error: BaseException) -> None:
        """Ends the process for an error: a message for the user's, a traceback for ours."""
        if isinstance(error, UserError):
            sys.stdout.flush()
            print(f"dist_ft: {error}", file=sys.stderr, flush=True)
            sys.exit(error.exit_code)
        if isinstance(error, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise error


class HorovodWorld(World):
    """The ranks of a Horovod job."""

    def __init__(self, device: str, stall_timeout: float, tuning: HorovodSettings):
        self._tuner = begin(tuning, count_gpus(device) > 0)
        self._hvd = _horovod()
        self._find_place()
        self._compression, self._num_groups = tuning.compression, tuning.num_groups
        self._mpi = _mpi_of_its_own(self.size)
        super().__init__(device, stall_timeout)
        if tuning.hierarchical_allreduce and not (
            self._hvd.nccl_built() and launcher.started_by_mpi() and count_gpus(device)
        ):
            raise UserError(
                "--hierarchical-allreduce: takes GPUs, ranks that MPI starts, and a Horovod with"
                f" NCCL; this one is {horovod_build()}: leave it out"
            )

    def _find_place(self) -> None:
        self.rank, self.size = self._hvd.rank(), self._hvd.size()
        self.local_rank, self.local_size = self._hvd.local_rank(), self._hvd.local_size()

    def sum(self, values):
        mine = mx.nd.array(values, ctx=mx.cpu(), dtype="float64")
        with self._waiting():
            return self._hvd.allreduce(mine, average=False, name="sum").asnumpy()

    def gather(self, value):
        with self._waiting():
            if self._mpi is None:
                everyones = self._hvd.allgather_object(value, name="gather")
            else:
                everyones = self._gather_by_mpi(value)
        assert len(everyones) == self.size
        return everyones

    def _gather_by_mpi(self, value: Any) -> list[Any]:
        everyone_is_here = self._mpi.Ibarrier()
        while not everyone_is_here.Test():  # Python hears of signals here, as it would not in MPI
            time.sleep(ASKED_EVERY_S)
        return self._mpi.allgather(value)

    def broadcast(self, arrays, root=0):
        with self._waiting():
            self._hvd.broadcast_parameters(arrays, root_rank=root, prefix="broadcast.")
            mx.nd.waitall()  # a name may be used again only when its last use is over

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        since = time.perf_counter()
        try:
            with self._watchdog.waiting():
                yield
        finally:
            self.waited_s += time.perf_counter() - since

    def trainer(self, params, optimizer, **_):
        compression = getattr(self._hvd.Compression, self._compression)
        return self._hvd.DistributedTrainer(
            params, optimizer, compression=compression, num_groups=self._num_groups
        )

    @contextmanager
    def raise_on_all_ranks(self):
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        told = None if error is None else (_told(error, self.name), _exit_code(error))
        reports = [report for report in self.gather(told) if report]
        if reports:
            # Ranks with the same trouble tell it in the same words: once is enough.
            words = list(dict.fromkeys(words for words, _ in reports))
            raise CollectiveError("\n".join(words), reports[0][1]) from error

    def close(self):
        super().close()
        self._hvd.shutdown()
        told = self._tuner and self._tuner.end()
        if told:
            print(told, flush=True)

    def fail(self, error):
        if isinstance(error, CollectiveError):
            if self.is_main:
                print(f"dist_ft: {error}", file=sys.stderr, flush=True)
            self.close()
            sys.exit(error.exit_code)
        if is_loss(error):
            print(f"dist_ft: {self.name}: ended, because another rank has", file=sys.stderr)
        else:
            print(f"dist_ft: {self.name}: {_told(error, '')}", file=sys.stderr)
        if TIMELINE in os.environ:
            with suppress(ValueError):  # Horovod has ended by itself
                self._hvd.stop_timeline()  # or its file would be cut
        sys.stdout.flush()
        sys.stderr.flush()
        self._abort(_exit_code(error))

    def _abort(self, exit_code: int) -> None:
        """Ends this process at once: an orderly exit would wait for the other ranks."""
        if launcher.started_by_mpi():
            from mpi4py import MPI

            MPI.COMM_WORLD.Abort(exit_code)
        os._exit(exit_code)


@contextmanager
def start(
    device: str = "auto",
    stall_timeout: float = 300.0,
    tuning: HorovodSettings = PLAIN,
    many: type[HorovodWorld] = HorovodWorld,
) -> Iterator[World]:
    """The world that this process was launched into; an error in the body ends the whole job.

    stall_timeout: seconds; many: what the ranks of a Horovod job become.
    """
    try:
        if launcher.launched_size() == 0:
            world = World(device, stall_timeout)
            if tuning.needs_rendezvous:
                print("one process sums nothing: --horovod-timeline and --autotune are left out")
        else:
            world = many(device, stall_timeout, tuning)
    except UserError as error:
        sys.exit(f"dist_ft: {error}")
    try:
        yield world
    except BaseException as error:
        world.fail(error)
    else:
        world.close()


def horovod_build() -> str | None:
    """What the installed Horovod was built with; None where there is none for MXNet."""
    try:
        import horovod
        import horovod.mxnet as hvd
    except ImportError:
        return None
    parts = {"Gloo": hvd.gloo_built(), "MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built()}
    return f"{horovod.__version__} with {', '.join(name for name, built in parts.items() if built)}"


def is_loss(error: BaseException) -> bool:
    """Whether a rank's error says no more than that another one has ended."""
    return isinstance(error, mx.MXNetError) and any(sign in str(error) for sign in LOSSES)


def _horovod():
    """horovod.mxnet, initialised, of the size that the launcher started."""
    launched = launcher.launched_size()
    try:
        import horovod.mxnet as hvd
    except ImportError as error:
        sys.exit(
            f"dist_ft: {launched} processes were started, but Horovod with MXNet cannot be"
            f" imported ({error}); 'make install' builds it, and one process runs without it"
        )
    if launcher.started_by_mpi():
        from mpi4py import MPI

        hvd.init(comm=MPI.COMM_WORLD)
    else:
        hvd.init()
    if hvd.size() != launched:
        sys.exit(
            f"dist_ft: {launched} processes were started, but Horovod sees {hvd.size()}: start"
            " them with horovodrun, or with the mpirun of the MPI that Horovod was built with"
        )
    return hvd


def _mpi_of_its_own(size: int) -> Any:
    """A communicator of mpi4py's apart from Horovod's traffic; None where MPI started nothing, or
    is of a build that no two threads may use at a time, as Horovod's and this one would."""
    if not launcher.started_by_mpi():
        return None  # mpi4py would see one process only
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return None
    if MPI.COMM_WORLD.Get_size() != size:
        sys.exit(
            f"dist_ft: Horovod sees {size} processes and mpi4py {MPI.COMM_WORLD.Get_size()}:"
            " build both against the MPI that starts them ('make install')"
        )
    return MPI.COMM_WORLD.Dup()


def _told(error: BaseException, name: str) -> str:
    if isinstance(error, UserError):
        return str(error)
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"{name}\n{lines}".strip()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return getattr(error, "exit_code", 1)
