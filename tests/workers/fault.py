"""A training run in which one rank comes to grief: `fault.py KIND RANK STEP [flags of train]`."""

import os
import signal
import sys
import time

kind, rank, at_step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[1:4] = []

from dist_ft import train  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402


def part(run):
    """This rank's parameters are no longer the others'."""
    parameter = next(p for p in run.core.collect_params().values() if p.grad_req != "null")
    parameter.set_data(parameter.data() + 1e-7)


FAULTS = {
    "part": part,
    "exception": lambda run: 1 / 0,
    "exit": lambda run: sys.exit(3),
    "kill": lambda run: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda run: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda run: time.sleep(10_000),
    "terminate": lambda run: os.kill(os.getpid(), signal.SIGTERM),
    "interrupt": lambda run: os.kill(os.getpid(), signal.SIGINT),
}

exchange = Run.begin_step


def faulty_exchange(self, step, batch, stop):
    if step == at_step and self.world.rank == rank:
        print(f"rank {rank} comes to grief at {time.time():.3f}", file=sys.stderr, flush=True)
        FAULTS[kind](self)
    return exchange(self, step, batch, stop)


Run.begin_step = faulty_exchange
train.main()
