"""A training run that records what it does: `elastic.py LOG [OPTIONS] [FLAGS of train]...`.

Each process writes a file of JSON lines to the folder LOG: when ranks were connected, how many and
their first step; and for every step made, hashes of this rank's images and the number of allreduce
operations.

--fault FAULT SLOT STEP: happens once, on the process of that slot (such as localhost:0), at a
    random moment of the step; FAULT: kill, stop (SIGSTOP) or terminate (SIGTERM).
--wait-at STEP: a single rank waits before this step until hosts are added.
--ungrouped: reduce every gradient on its own and do not wait for all before an update.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
parser.add_argument("log", type=Path)
parser.add_argument("--fault", nargs=3, default=["", "", "-1"])
parser.add_argument("--wait-at", type=int)
parser.add_argument("--ungrouped", action="store_true")
args, sys.argv[1:] = parser.parse_known_args()
fault, slot, fault_step = args.fault

from dist_ft import train  # noqa: E402
from dist_ft.distributed.elastic_world import ElasticWorld  # noqa: E402
from dist_ft.distributed.horovod_world import HorovodWorld  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM}
MY_SLOT = f"{os.environ.get('HOROVOD_HOSTNAME')}:{os.environ.get('HOROVOD_LOCAL_RANK')}"
HOST_TIMEOUT_S = 60

args.log.mkdir(parents=True, exist_ok=True)
log = (args.log / f"{time.time():.3f}-{os.getpid()}").open("w", buffering=1)
enter, begin_step, end_step = Run.__enter__, Run.begin_step, Run.end_step
images = {}  # of each step
reductions = []  # since the step began


def record(**values):
    log.write(json.dumps(values) + "\n")


def count_calls(module, name):
    operation = getattr(module, name)

    def counted(*args, **kwargs):
        reductions.append(name)
        return operation(*args, **kwargs)

    setattr(module, name, counted)


def inject_fault():
    time.sleep(random.uniform(0, 0.05))  # at any point of the step
    record(fault_at=time.time())
    os.kill(os.getpid(), SIGNALS[fault])


def recording_enter(run):
    connected_at = run.world.gather(time.time())[0]
    record(connected_at=connected_at, first_step=run.step, size=run.world.size)
    return enter(run)


def wait_for_hosts(world):
    deadline = time.monotonic() + HOST_TIMEOUT_S
    while not world.session.resize_pending and time.monotonic() < deadline:
        time.sleep(0.05)
        world.heartbeat("waiting for hosts")


def recording_begin_step(run, step, batch, *rest):
    happened = args.log / "fault"
    if step == int(fault_step) and slot == MY_SLOT and not happened.exists():
        happened.touch()
        threading.Thread(target=inject_fault).start()
    if step == args.wait_at and run.world.size == 1:
        wait_for_hosts(run.world)
    reductions.clear()  # of a step that was not completed
    real = batch.x[batch.mask > 0]
    images[step] = [hashlib.sha256(image.tobytes()).hexdigest()[:12] for image in real]
    return begin_step(run, step, batch, *rest)


def recording_end_step(run, step, *rest):
    record(step=step, images=images[step], num_reductions=len(reductions), at=time.time())
    end_step(run, step, *rest)


def ungrouped_trainer(world, params, optimizer):
    world.settings = world.settings._replace(num_groups=0)
    return HorovodWorld.trainer(world, params, optimizer)


if args.ungrouped:
    ElasticWorld.trainer = ungrouped_trainer
if "HOROVOD_ELASTIC" in os.environ:
    import horovod.mxnet as hvd

    count_calls(hvd, "allreduce_")
    count_calls(hvd, "grouped_allreduce_")
Run.__enter__, Run.begin_step = recording_enter, recording_begin_step
Run.end_step = recording_end_step
train.main()
