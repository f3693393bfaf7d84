"""HorovodWorld: the ranks of a Horovod job."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import Any, Iterator, Sequence

import mxnet as mx
import numpy as np

# Horovod makes the symbols of libmxnet.so global. Its libjpeg would replace Pillow's if Pillow were
# loaded later, and Pillow could not decode JPEG files.
import PIL.Image  # noqa: F401

from dist_ft.distributed import devices, exits, launcher
from dist_ft.distributed.horovod_settings import TIMELINE, HorovodSettings
from dist_ft.distributed.session import Arrays
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, UserError

BARRIER_POLL_S = 0.001


class HorovodWorld(World):
    """The ranks of a Horovod job, started by horovodrun, mpirun or srun."""

    def __init__(self, device: str, stall_timeout_s: float, settings: HorovodSettings):
        """Initializes Horovod, selects this rank's device and starts the watchdog.

        Raises UserError if Horovod is unavailable or does not see all launched ranks, or if a
        setting is unusable.
        """
        num_gpus = devices.count_gpus(device)
        settings.apply(on_gpu=num_gpus > 0)
        self.settings = settings
        self._hvd = _initialize_horovod()
        self._update_rank()
        self._mpi = _duplicate_communicator(self.size)
        super().__init__(device, stall_timeout_s)
        if settings.hierarchical_allreduce:
            self._check_hierarchical_allreduce(num_gpus)

    def _update_rank(self) -> None:
        self.rank, self.size = self._hvd.rank(), self._hvd.size()
        self.local_rank, self.local_size = self._hvd.local_rank(), self._hvd.local_size()

    def _check_hierarchical_allreduce(self, num_gpus: int) -> None:
        if not (self._hvd.nccl_built() and launcher.started_by_mpi() and num_gpus):
            raise UserError(
                "--hierarchical-allreduce: needs GPUs, ranks started by MPI, and Horovod built with"
                f" NCCL; this is Horovod {horovod_build()}; omit the flag"
            )

    def start_timeline(self) -> None:
        """Starts Horovod's timeline, which rank 0 writes to the file that the settings name.

        Raises CollectiveError if the file cannot be created.
        """
        with self.raise_on_all_ranks():
            if self.is_main:
                self._hvd.start_timeline(self.settings.create_timeline_file())

    def sum(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        local = mx.nd.array(values, ctx=mx.cpu(), dtype="float64")
        with self._waiting():
            return self._hvd.allreduce(local, average=False, name="sum").asnumpy()

    def gather(self, value: Any) -> list[Any]:
        with self._waiting():
            if self._mpi is None:
                values = self._hvd.allgather_object(value, name="gather")
            else:
                values = self._gather_by_mpi(value)
        assert len(values) == self.size
        return values

    def _gather_by_mpi(self, value: Any) -> list[Any]:
        # Python handles signals between the polls, but not inside a blocking call of MPI, which
        # would keep a core busy, too.
        barrier = self._mpi.Ibarrier()
        while not barrier.Test():
            time.sleep(BARRIER_POLL_S)
        return self._mpi.allgather(value)

    def broadcast(self, arrays: Arrays, root: int = 0) -> None:
        with self._waiting():
            self._hvd.broadcast_parameters(arrays, root_rank=root, prefix="broadcast.")
            mx.nd.waitall()  # a name must not be used again before its last broadcast is over

    def trainer(
        self, params: mx.gluon.ParameterDict, optimizer: mx.optimizer.Optimizer
    ) -> mx.gluon.Trainer:
        compression = getattr(self._hvd.Compression, self.settings.compression)
        return self._hvd.DistributedTrainer(
            params, optimizer, compression=compression, num_groups=self.settings.num_groups
        )

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        report = None
        if error is not None:
            report = exits.describe(error, self.name), exits.exit_code(error)
        reports = [report for report in self.gather(report) if report]
        if reports:
            # Ranks that fail for the same reason have the same message; it is shown once.
            messages = list(dict.fromkeys(message for message, _ in reports))
            _, exit_code = reports[0]
            raise CollectiveError("\n".join(messages), exit_code) from error

    def close(self) -> None:
        super().close()
        self._hvd.shutdown()

    def abort(self, exit_code: int) -> None:
        """Ends this process at once, without leaving the world in order.

        An orderly exit shuts Horovod down, and that waits for the other ranks. They may be waiting
        for this one in a collective call, and end only when its connections close. MPI's launcher
        ends the other ranks, and passes the exit status on, only after an Abort.
        """
        if TIMELINE in os.environ:
            with suppress(ValueError):  # Horovod has shut down by itself
                self._hvd.stop_timeline()  # completes the file
        if launcher.started_by_mpi():
            from mpi4py import MPI

            MPI.COMM_WORLD.Abort(exit_code)
        os._exit(exit_code)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        since = time.perf_counter()
        try:
            with self._watchdog.waiting():
                yield
        finally:
            self.waited_s += time.perf_counter() - since


def horovod_build() -> str | None:
    """Version and features of the installed Horovod; None if there is none for MXNet."""
    try:
        import horovod
        import horovod.mxnet as hvd
    except ImportError:
        return None
    features = {"Gloo": hvd.gloo_built(), "MPI": hvd.mpi_built(), "NCCL": hvd.nccl_built()}
    built = [name for name, is_built in features.items() if is_built]
    return f"{horovod.__version__} with {', '.join(built)}"


def _initialize_horovod() -> Any:
    """The module horovod.mxnet, initialized with as many ranks as the launcher started."""
    launched = launcher.launched_size()
    try:
        import horovod.mxnet as hvd
    except ImportError as error:
        raise UserError(
            f"{launched} processes were launched, but Horovod for MXNet cannot be imported"
            f" ({error}); build it with 'make install', or run a single process without it"
        ) from error
    if launcher.started_by_mpi():
        from mpi4py import MPI

        hvd.init(comm=MPI.COMM_WORLD)
    else:
        hvd.init()
    if hvd.size() != launched:
        raise UserError(
            f"{launched} processes were launched, but Horovod sees {hvd.size()}; launch them with"
            " horovodrun, or with the mpirun of the MPI that Horovod was built with"
        )
    return hvd


def _duplicate_communicator(size: int) -> Any:
    """An MPI communicator for gathering objects, separate from Horovod's traffic.

    None if MPI did not launch the ranks (mpi4py would see a single process), or if this MPI does
    not allow two threads, Horovod's and ours, to use it at the same time.
    """
    if not launcher.started_by_mpi():
        return None
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return None
    if MPI.COMM_WORLD.Get_size() != size:
        raise UserError(
            f"Horovod sees {size} processes and mpi4py {MPI.COMM_WORLD.Get_size()}; build both"
            " against the MPI that launches them ('make install')"
        )
    return MPI.COMM_WORLD.Dup()
