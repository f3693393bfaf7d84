"""A run that tells how long its commits and its steps take: `commits.py FILE FLAGS...`."""

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

commit, exchange, after = StateSaver.commit, Run.begin_step, Run.end_step
commits_ms, steps_ms, since = [], [], [0.0]


def timed_commit(saver):
    mx.nd.waitall()  # what the steps before have left to do is not the commit's
    start = time.perf_counter()
    commit(saver)
    commits_ms.append(1e3 * (time.perf_counter() - start))


def timed_exchange(run, step, batch, stop):
    mx.nd.waitall()
    since[0] = time.perf_counter()
    return exchange(run, step, batch, stop)


def timed_after(run, *step):
    mx.nd.waitall()
    steps_ms.append(1e3 * (time.perf_counter() - since[0]))
    after(run, *step)
    if run.world.is_main:
        file.write_text(json.dumps({"commits_ms": commits_ms, "steps_ms": steps_ms}))


StateSaver.commit, Run.begin_step, Run.end_step = timed_commit, timed_exchange, timed_after
train.main()
