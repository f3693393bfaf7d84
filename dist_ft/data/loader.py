"""Batches of pixels, decoded ahead by threads and handed over in order.

Threads suffice, since the decoders release Python's lock, and nothing is forked, which Horovod and
MPI would not survive. What a batch holds depends on its indices and the view alone, never on the
number of workers.
"""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator

import mxnet as mx
import numpy as np

from dist_ft.data.folder import Split
from dist_ft.data.image import BLANK, CorruptImage, read
from dist_ft.data.shard import Share

AHEAD = 2  # batches decoded while one is being used

View = Callable[[np.ndarray, int], np.ndarray]  # (H, W, 3) pixels, image index -> (side, side, 3)


@dataclass
class Batch:
    x: np.ndarray  # (n, side, side, 3) uint8
    labels: np.ndarray  # (n,) int32
    mask: np.ndarray  # (n,) float32; 0 where the row is padding or its file unreadable

    @property
    def num_images(self) -> int:
        return int(self.mask.sum())

    def on(self, ctx: mx.Context) -> tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray]:
        """(x, labels, mask) on a device: pixels cross to it as bytes, and on the CPU not at all."""
        arrays = (mx.nd.from_numpy(a) for a in (self.x, self.labels, self.mask))
        return tuple(array.as_in_context(ctx) for array in arrays)


class Loader:
    """Reads a split's images on threads.

    bad: what is wrong with each file that could not be read, by its path.
    waited_s: how long the consumer has waited for batches.
    """

    def __init__(self, split: Split, side: int, num_workers: int):
        self.split = split
        self.side = side
        self.bad: dict[str, str] = {}
        self.waited_s = 0.0
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def batches(self, shares: Iterable[Share], view: View) -> Iterator[Batch]:
        """A batch for each (indices, mask); index -1 gives a blank row with a mask of 0.

        An unreadable image is masked out and noted in `bad`; any other error of a worker is raised
        here, with the file's path.
        """
        pending: deque[tuple[Batch, list[Future]]] = deque()
        try:
            for share in shares:
                pending.append(self._start(share, view))
                if len(pending) > AHEAD:
                    yield self._finish(pending)
            while pending:
                yield self._finish(pending)
        finally:
            rows = [row for _, rows in pending for row in rows]
            for row in rows:
                row.cancel()
            wait(rows)  # a late one would write into the next epoch's `bad`

    def close(self) -> None:
        self._workers.shutdown(wait=True)

    def _start(self, share: Share, view: View) -> tuple[Batch, list[Future]]:
        indices, mask = share
        x = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        labels = np.array([self.split.labels[i] if i >= 0 else 0 for i in indices], np.int32)
        batch = Batch(x, labels, mask.copy())
        rows = range(len(indices))
        return batch, [self._workers.submit(self._fill, batch, r, indices[r], view) for r in rows]

    def _finish(self, pending: deque[tuple[Batch, list[Future]]]) -> Batch:
        start = time.perf_counter()
        for row in pending[0][1]:
            row.result()
        self.waited_s += time.perf_counter() - start
        return pending.popleft()[0]

    def _fill(self, batch: Batch, row: int, index: int, view: View) -> None:
        if index < 0:
            batch.x[row] = BLANK
            return
        path = self.split.paths[index]
        try:
            batch.x[row] = view(read(os.path.join(self.split.root, path)), index)
        except CorruptImage as error:
            batch.x[row], batch.mask[row] = BLANK, 0
            self.bad[path] = str(error)
        except Exception as error:
            raise RuntimeError(f"{path}: {type(error).__name__}: {error}") from error
