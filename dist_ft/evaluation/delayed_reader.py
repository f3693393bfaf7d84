"""Reads arrays from the device two steps late, so that the device always has work."""

from __future__ import annotations

from collections import deque
from typing import Any, Iterator

import mxnet as mx


class DelayedReader:
    """A queue of device arrays, each read `num_steps` steps after it was pushed."""

    def __init__(self, num_steps: int = 2):
        self.num_steps = num_steps
        self._queue: deque[tuple[Any, ...]] = deque()

    def push(self, array: mx.nd.NDArray, *tags: Any) -> Iterator[tuple[Any, ...]]:
        """Queues an array; yields (numpy array, *tags) for those that are old enough."""
        self._queue.append((array, *tags))
        return self.rest(self.num_steps)

    def rest(self, num_kept: int = 0) -> Iterator[tuple[Any, ...]]:
        """Yields all but the last `num_kept`."""
        while len(self._queue) > num_kept:
            array, *tags = self._queue.popleft()
            yield (array.asnumpy(), *tags)  # sync point with the device
