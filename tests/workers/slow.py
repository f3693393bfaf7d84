"""A training run in which one rank is slow: `slow.py data|step RANK FLAGS...`.

data: decoding its images takes longer; step: its own part of each step does.
"""

import sys
import time

kind, rank = sys.argv[1], int(sys.argv[2])
sys.argv[1:3] = []

from dist_ft import train  # noqa: E402
from dist_ft.data.rank_batches import RankBatches  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

STEP_DELAY_S, IMAGE_DELAY_S = 0.8, 0.4

augmented, begin_step = RankBatches._augmented, Run.begin_step


def slow_augmented(batches, epoch):
    fill = augmented(batches, epoch)

    def slow_fill(index, row):
        if batches.rank == rank:
            time.sleep(IMAGE_DELAY_S)
        fill(index, row)

    return slow_fill


def slow_begin_step(run, *args):
    num_images = begin_step(run, *args)
    if run.world.rank == rank:
        time.sleep(STEP_DELAY_S)
    return num_images


if kind == "data":
    RankBatches._augmented = slow_augmented
else:
    Run.begin_step = slow_begin_step
train.main()
