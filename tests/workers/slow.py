"""A training run in which one rank is slow: `slow.py KIND RANK [flags of train]`.

KIND: data, step, device, between, or none.
"""

import sys
import time

kind, rank = sys.argv[1], int(sys.argv[2])
sys.argv[1:3] = []

import mxnet as mx  # noqa: E402

from dist_ft import train  # noqa: E402
from dist_ft.data.rank_batches import RankBatches  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

LATE_S = 0.8  # a step

augmented, exchange, after = RankBatches._augmented, Run.begin_step, Run.end_step


def slow_augmented(self, epoch):
    """Its disk is slow."""
    fill = augmented(self, epoch)

    def late(index, row):
        time.sleep(LATE_S / 2 if self.rank == rank else 0)
        fill(index, row)

    return late


def slow_exchange(self, step, batch, stop):
    """Its device has more to do, which the program does not wait for; or the program sleeps."""
    num_images = exchange(self, step, batch, stop)
    if self.world.rank == rank and kind == "device":
        many = mx.nd.ones((1000, 1000))
        for _ in range(30):
            many = mx.nd.dot(many, many) * 1e-3
    if self.world.rank == rank and kind == "step":
        time.sleep(LATE_S)
    return num_images


def slow_after(self, *step):
    if self.world.rank == rank and kind == "between":
        time.sleep(LATE_S)
    after(self, *step)


if kind == "data":
    RankBatches._augmented = slow_augmented
Run.begin_step, Run.end_step = slow_exchange, slow_after
train.main()
