"""Batches of pixels, decoded ahead by threads and handed over in order.

Threads suffice, since the decoders release Python's lock, and nothing is forked, which Horovod and
MPI would not survive. What a batch holds depends on its indices and the view alone, never on the
number of workers.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterable, Iterator

import numpy as np

from dist_ft.data.dataset import Split
from dist_ft.data.decoding import BLANK, CorruptImage
from dist_ft.data.sampler import Share

if TYPE_CHECKING:
    import mxnet as mx

ROWS = 8  # of a batch that a worker takes at a time: from a cache a row is quicker than its handing
MOST_AHEAD = 8  # batches

Fill = Callable[[int, np.ndarray], None]  # an image's index, and its (side, side, 3) row to fill


@dataclass
class Batch:
    x: np.ndarray  # (n, side, side, 3) uint8
    labels: np.ndarray  # (n,) int32
    mask: np.ndarray  # (n,) float32; 0 where the row is padding or its file is unreadable
    indices: np.ndarray  # (n,) int64: each row's image in its split; -1 for padding

    @property
    def num_images(self) -> int:
        return int(self.mask.sum())

    def on(self, ctx: mx.Context) -> tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray]:
        """(x, labels, mask) on a device. Pixels are copied as uint8; the CPU shares the memory."""
        import mxnet as mx  # here, so that commands that run no network do not load MXNet

        arrays = (mx.nd.from_numpy(a) for a in (self.x, self.labels, self.mask))
        return tuple(array.as_in_context(ctx) for array in arrays)


class Loader:
    """Fills batches of a split's images on threads.

    prefetch_mb: what may be decoded ahead of the batch in use, in MB; at least one batch is.
    unreadable: what is wrong with each file that could not be read, by its path.
    waited_s: how long the consumer has waited for batches.
    """

    def __init__(self, split: Split, side: int, num_workers: int, prefetch_mb: float):
        self.split = split
        self.side = side
        self.unreadable: dict[str, str] = {}
        self.waited_s = 0.0
        self._prefetch_bytes = prefetch_mb * 1e6
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def batches(self, shares: Iterable[Share], fill: Fill) -> Iterator[Batch]:
        """A batch for each (indices, mask); index -1 gives a blank row with a mask of 0.

        Where `fill` raises CorruptImage or OSError the image is masked out and noted in `bad`; any
        other error of a worker is raised here, with the file's path.
        """
        pending: deque[tuple[Batch, list[Future]]] = deque()
        try:
            for share in shares:
                pending.append(self._start(share, fill))
                if len(pending) > self._num_ahead(pending[0][0]):
                    yield self._finish(pending)
            while pending:
                yield self._finish(pending)
        finally:
            chunks = [chunk for _, chunks in pending for chunk in chunks]
            for chunk in chunks:
                chunk.cancel()
            wait(chunks)  # a late one would write into the next epoch's `bad`

    def _num_ahead(self, batch: Batch) -> int:
        """Batches to decode while one is in use: more than a few smooth nothing out any more."""
        fitting = self._prefetch_bytes // max(1, batch.x.nbytes)
        return int(min(max(1, fitting), MOST_AHEAD))

    def close(self) -> None:
        self._workers.shutdown(wait=True)

    def _start(self, share: Share, fill: Fill) -> tuple[Batch, list[Future]]:
        indices, mask = share
        x = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        labels = np.array([self.split.labels[i] if i >= 0 else 0 for i in indices], np.int32)
        batch = Batch(x, labels, mask.copy(), np.where(mask > 0, indices, -1))
        chunks = [
            self._workers.submit(
                self._fill, batch, indices, range(len(indices))[r : r + ROWS], fill
            )
            for r in range(0, len(indices), ROWS)
        ]
        return batch, chunks

    def _finish(self, pending: deque[tuple[Batch, list[Future]]]) -> Batch:
        start = time.perf_counter()
        for chunk in pending[0][1]:
            chunk.result()
        self.waited_s += time.perf_counter() - start
        return pending.popleft()[0]

    def _fill(self, batch: Batch, indices: np.ndarray, rows: range, fill: Fill) -> None:
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
