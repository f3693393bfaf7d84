"""Exact scores: integers and float64 sums over shards that drop nothing and repeat nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator

import mxnet as mx
import numpy as np

from dist_ft.data.loader import Batch

TOP = 5


@dataclass
class Scores:
    """Sums over images. They are divided only when somebody reads them."""

    num_images: int
    correct: int
    correct_top5: int
    loss_sum: float
    confusion: np.ndarray  # (C, C) int64: images of class [row] that were taken for [column]

    @staticmethod
    def none(num_classes: int) -> Scores:
        return Scores(0, 0, 0, 0.0, np.zeros((num_classes, num_classes), np.int64))

    def add(self, labels, predicted, rank_of_label, losses, mask) -> None:
        """Counts a batch; each is (n,), and rows with a mask of 0 are left out.

        rank_of_label: how many classes have a larger logit than the image's own.
        """
        real = mask > 0
        labels, predicted = labels[real].astype(int), predicted[real].astype(int)
        self.num_images += int(real.sum())
        self.correct += int((labels == predicted).sum())
        self.correct_top5 += int((rank_of_label[real] < TOP).sum())
        self.loss_sum += float(losses[real].astype(np.float64).sum())
        np.add.at(self.confusion, (labels, predicted), 1)

    def over_ranks(self, world) -> Scores:
        """The sums of all ranks' shards, in one reduction."""
        mine = [self.num_images, self.correct, self.correct_top5, self.loss_sum]
        total = world.sum(np.concatenate([mine, self.confusion.ravel()]))
        counts = total[4:].astype(np.int64).reshape(self.confusion.shape)
        return Scores(int(total[0]), int(total[1]), int(total[2]), float(total[3]), counts)

    @property
    def accuracy(self) -> float:
        return self.correct / max(1, self.num_images)

    @property
    def accuracy_top5(self) -> float:
        return self.correct_top5 / max(1, self.num_images)

    @property
    def loss(self) -> float:
        return self.loss_sum / max(1, self.num_images)


class DelayedReader:
    """Device arrays on their way to the host, read two steps late.

    So the device always has a step to go on with, and never more than two batches wait on it.
    """

    def __init__(self, num_steps: int = 2):
        self.num_steps = num_steps
        self._queue: deque = deque()

    def push(self, array: mx.nd.NDArray, *tags) -> Iterator[tuple]:
        """Takes one in; yields (numpy array, *tags) of those that are old enough."""
        self._queue.append((array, *tags))
        return self._drain(self.num_steps)

    def rest(self) -> Iterator[tuple]:
        """Yields all that are left."""
        return self._drain(0)

    def _drain(self, keep: int) -> Iterator[tuple]:
        while len(self._queue) > keep:
            array, *tags = self._queue.popleft()
            yield (array.asnumpy(), *tags)  # sync point, with a step long past


def evaluate(
    net,
    batches: Iterable[Batch],
    num_classes: int,
    world,
    watch: Callable[[Batch, np.ndarray, np.ndarray, np.ndarray], None] = lambda *told: None,
) -> Scores:
    """Scores of the network, (n, H, W, 3) uint8 -> (n, C) logits, over all ranks' batches.

    watch: is told of each of this rank's batches, which classes its rows were taken for, (n,),
    their losses, (n,), and the probabilities, (n, C); rows with a mask of 0 are there, too.
    """
    scores, behind = Scores.none(num_classes), DelayedReader()

    def count(finished):
        for (predicted, rank, losses, *p), batch in finished:
            scores.add(batch.labels, predicted, rank, losses, batch.mask)
            watch(batch, predicted, losses, np.stack(p, axis=1))

    for batch in batches:
        world.heartbeat("evaluation")
        count(behind.push(_score(net, batch, world.ctx), batch))
    count(behind.rest())
    return scores.over_ranks(world)


def _score(net, batch: Batch, ctx: mx.Context) -> mx.nd.NDArray:
    """(3 + C, n): class taken for, rank of the label, cross entropy, probability of each class."""
    x, labels, _ = batch.on(ctx)
    logits = net(x).astype("float32")
    own = logits.pick(labels).expand_dims(1)
    rank = (logits > own).sum(axis=1)
    log_p = logits.log_softmax()
    rows = mx.nd.stack(logits.argmax(axis=1), rank, -log_p.pick(labels))
    return mx.nd.concat(rows, log_p.exp().T, dim=0)
