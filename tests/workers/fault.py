"""A training run with a fault on one rank before a step: `fault.py FAULT RANK STEP FLAGS...`."""

import os
import signal
import sys
import time

fault, rank, at_step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[1:4] = []

from dist_ft import train  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

FAULTS = {
    "exception": lambda: 1 / 0,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda: time.sleep(10_000),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
}

begin_step = Run.begin_step


def faulty_begin_step(run, step, *args):
    if step == at_step and run.world.rank == rank:
        print(f"fault on rank {rank}: {fault}", file=sys.stderr, flush=True)
        FAULTS[fault]()
    return begin_step(run, step, *args)


Run.begin_step = faulty_begin_step
train.main()
