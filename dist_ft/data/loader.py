"""Fills batches on threads, ahead of their use and in order.

Threads suffice because the decoders release the GIL, and forking is not safe after Horovod or MPI
has started. A batch depends on its indices and the fill function only, never on the number of
workers.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterable, Iterator

import numpy as np

from dist_ft.data.dataset import Split
from dist_ft.data.image import BLANK, CorruptImage
from dist_ft.data.sampler import Share
from dist_ft.data.targets import Targets

if TYPE_CHECKING:
    import mxnet as mx

ROWS_PER_TASK = 8  # filling one row from a cache is quicker than handing over a task
MAX_PREFETCHED = 8  # batches; more would smooth out nothing

Fill = Callable[[int, np.ndarray], None]  # (image index, its (side, side, 3) row to fill)


@dataclass
class Batch:
    """Images of one step, or features in their place."""

    x: np.ndarray  # (n, side, side, 3) uint8, or (n, ...) float32 features
    labels: np.ndarray  # (n,) int32
    mask: np.ndarray  # (n,) float32: 0 for padding and unreadable images, else 1
    indices: np.ndarray  # (n,) int64: the image's index in its split; -1 for padding
    targets: Targets | None = None  # of a training batch

    @property
    def num_images(self) -> int:
        """The number of rows that count."""
        return int(self.mask.sum())

    @property
    def weight_sum(self) -> float:
        """The sum of the images' weights in the loss; of a training batch only."""
        assert self.targets
        return self.targets.weight_sum

    def on(self, ctx: mx.Context) -> tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray]:
        """(x, labels, targets) of a training batch on a device, as in gradients.DeviceBatch."""
        assert self.targets
        return (
            _on_device(self.x, ctx),
            _on_device(self.targets.labels, ctx),
            _on_device(self.targets.values, ctx),
        )

    def x_on(self, ctx: mx.Context) -> mx.nd.NDArray:
        """x on a device."""
        return _on_device(self.x, ctx)


def _on_device(array: np.ndarray, ctx: mx.Context) -> mx.nd.NDArray:
    """A copy of the same type; the CPU shares the memory."""
    import mxnet as mx  # here, so that commands that run no network do not load MXNet

    return mx.nd.from_numpy(array).as_in_context(ctx)


class Loader:
    """Fills batches of a split's images.

    prefetch_mb: memory for the batches that are filled ahead, MB; one is always filled ahead.
    unreadable: the reason for each file that could not be read, by path.
    waited_s: how long the consumer has waited for batches, s.
    """

    def __init__(self, split: Split, side: int, num_workers: int, prefetch_mb: float):
        self.split = split
        self.side = side
        self.unreadable: dict[str, str] = {}
        self.waited_s = 0.0
        self._labels = np.array(split.labels, np.int32)
        self._prefetch_bytes = prefetch_mb * 1e6
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def batches(self, shares: Iterable[Share], fill: Fill) -> Iterator[Batch]:
        """A batch for each (indices, mask); index -1 gives a blank row.

        If `fill` raises CorruptImage or OSError, the row's mask becomes 0 and the reason is added
        to `unreadable`. Any other error is raised here as a RuntimeError that names the file.
        """
        pending: deque[tuple[Batch, list[Future]]] = deque()
        try:
            for share in shares:
                pending.append(self._start(share, fill))
                if len(pending) > self._num_prefetched(pending[0][0]):
                    yield self._finish(pending)
            while pending:
                yield self._finish(pending)
        finally:
            tasks = [task for _, tasks in pending for task in tasks]
            for task in tasks:
                task.cancel()
            wait(tasks)  # a task still running would add to `unreadable` in the next epoch

    def close(self) -> None:
        """Ends the threads."""
        self._workers.shutdown(wait=True)

    def _num_prefetched(self, batch: Batch) -> int:
        fitting = self._prefetch_bytes // max(1, batch.x.nbytes)
        return int(min(max(1, fitting), MAX_PREFETCHED))

    def _start(self, share: Share, fill: Fill) -> tuple[Batch, list[Future]]:
        indices, mask = np.asarray(share[0], np.int64), share[1]
        num_rows = len(indices)
        batch = Batch(
            x=np.empty((num_rows, self.side, self.side, 3), np.uint8),
            labels=np.where(indices >= 0, self._labels[indices], 0).astype(np.int32),
            mask=mask.copy(),
            indices=np.where(mask > 0, indices, -1),
        )
        tasks = []
        for start in range(0, num_rows, ROWS_PER_TASK):
            rows = range(start, min(start + ROWS_PER_TASK, num_rows))
            tasks.append(self._workers.submit(self._fill_rows, batch, indices, rows, fill))
        return batch, tasks

    def _finish(self, pending: deque[tuple[Batch, list[Future]]]) -> Batch:
        start = time.perf_counter()
        for task in pending[0][1]:
            task.result()
        self.waited_s += time.perf_counter() - start
        return pending.popleft()[0]

    def _fill_rows(self, batch: Batch, indices: np.ndarray, rows: range, fill: Fill) -> None:
        for row in rows:
            index = int(indices[row])
            if index < 0:
                batch.x[row] = BLANK
                continue
            path = self.split.paths[index]
            try:
                fill(index, batch.x[row])
            except (CorruptImage, OSError) as error:
                batch.x[row], batch.mask[row] = BLANK, 0
                self.unreadable[path] = f"{self.split.root / path}: {error}"
            except Exception as error:
                raise RuntimeError(f"{path}: {type(error).__name__}: {error}") from error
