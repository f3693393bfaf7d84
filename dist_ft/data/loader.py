"""Fills batches on threads, ahead of their use and in order.

Threads suffice because the decoders release the GIL, and forking is not safe after Horovod or MPI
has started. A batch depends on its samples and on the functions that fill and mix their rows, never
on the number of workers.
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

# Filling one row from a cache is quicker than handing over a task. Even, since a task mixes pairs.
ROWS_PER_TASK = 8
MAX_PREFETCHED = 8  # batches; more would smooth out nothing

Fill = Callable[[int, np.ndarray], None]  # (sample, its (side, side, 3) row to fill)
# (sample, its row, the next row): mixes two rows, and returns the share of the other one in each.
Mix = Callable[[int, np.ndarray, np.ndarray], float]


@dataclass
class Batch:
    """Images of one step, or features in their place."""

    x: np.ndarray  # (n, side, side, 3) uint8, or (n, ...) float32 features
    labels: np.ndarray  # (n,) int32
    mask: np.ndarray  # (n,) float32: 0 for padding and unreadable images, else 1
    indices: np.ndarray  # (n,) int64: the image's index in its split; -1 for padding
    # (n,) float32 if images are mixed: the share of row ^ 1 in a row's pixels and target.
    partner_share: np.ndarray | None = None
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

    def batches(
        self, shares: Iterable[Share], fill: Fill, mix: Mix | None = None
    ) -> Iterator[Batch]:
        """A batch for each (samples, mask), see sampler.py; sample -1 gives a blank row.

        mix: applied to rows 2 i and 2 i + 1, unless one of them is padding or unreadable.

        If `fill` raises CorruptImage or OSError, the row's mask becomes 0 and the reason is added
        to `unreadable`. Any other error is raised here as a RuntimeError that names the file.
        """
        pending: deque[tuple[Batch, list[Future]]] = deque()
        try:
            for share in shares:
                pending.append(self._start(share, fill, mix))
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

    def _start(self, share: Share, fill: Fill, mix: Mix | None) -> tuple[Batch, list[Future]]:
        samples, mask = np.asarray(share[0], np.int64), share[1]
        num_rows, indices = len(samples), samples % len(self.split)
        batch = Batch(
            x=np.empty((num_rows, self.side, self.side, 3), np.uint8),
            labels=np.where(samples >= 0, self._labels[indices], 0).astype(np.int32),
            mask=mask.copy(),
            indices=np.where(mask > 0, indices, -1),
            partner_share=np.zeros(num_rows, np.float32) if mix else None,
        )

        def fill_and_mix(rows: range) -> None:
            self._fill_rows(batch, samples, rows, fill)
            if mix:
                _mix_rows(batch, samples, rows, mix)

        starts = range(0, num_rows, ROWS_PER_TASK)
        tasks = [range(start, min(start + ROWS_PER_TASK, num_rows)) for start in starts]
        return batch, [self._workers.submit(fill_and_mix, rows) for rows in tasks]

    def _finish(self, pending: deque[tuple[Batch, list[Future]]]) -> Batch:
        start = time.perf_counter()
        for task in pending[0][1]:
            task.result()
        self.waited_s += time.perf_counter() - start
        return pending.popleft()[0]

    def _fill_rows(self, batch: Batch, samples: np.ndarray, rows: range, fill: Fill) -> None:
        for row in rows:
            sample = int(samples[row])
            if sample < 0:
                batch.x[row] = BLANK
                continue
            path = self.split.paths[sample % len(self.split)]
            try:
                fill(sample, batch.x[row])
            except (CorruptImage, OSError) as error:
                batch.x[row], batch.mask[row] = BLANK, 0
                if sample < len(self.split):  # a repetition may be on another rank
                    self.unreadable[path] = f"{self.split.root / path}: {error}"
            except Exception as error:
                raise RuntimeError(f"{path}: {type(error).__name__}: {error}") from error


def _mix_rows(batch: Batch, samples: np.ndarray, rows: range, mix: Mix) -> None:
    assert batch.partner_share is not None
    for row in rows[::2]:
        if batch.mask[row : row + 2].all():
            share = mix(int(samples[row]), batch.x[row], batch.x[row + 1])
            batch.partner_share[row : row + 2] = share
