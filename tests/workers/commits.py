"""A run that records how long its commits and its steps take: `commits.py FILE FLAGS...`."""

import json
import sys
import time
from pathlib import Path

file = Path(sys.argv[1])
del sys.argv[1]

from dist_ft.distributed import threads  # noqa: E402

threads.bind_cores()

import mxnet as mx  # noqa: E402

from dist_ft import train  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402
from dist_ft.training.saving import StateSaver  # noqa: E402

commit, begin_step, end_step = StateSaver.commit, Run.begin_step, Run.end_step
commits_ms, steps_ms = [], []
step_began_s = 0.0


def timed_commit(saver):
    mx.nd.waitall()  # pending work belongs to the steps before
    start_s = time.perf_counter()
    commit(saver)
    commits_ms.append(1e3 * (time.perf_counter() - start_s))


def timed_begin_step(run, *args):
    global step_began_s
    mx.nd.waitall()
    step_began_s = time.perf_counter()
    return begin_step(run, *args)


def timed_end_step(run, *args):
    mx.nd.waitall()
    steps_ms.append(1e3 * (time.perf_counter() - step_began_s))
    end_step(run, *args)
    if run.world.is_main:
        file.write_text(json.dumps({"commits_ms": commits_ms, "steps_ms": steps_ms}))


StateSaver.commit, Run.begin_step, Run.end_step = timed_commit, timed_begin_step, timed_end_step
train.main()
