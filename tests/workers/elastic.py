"""A run that tells what it does:
`elastic.py LOG [GRIEF SLOT STEP] [await STEP] [hasty] FLAGS...`.

LOG is a folder; each process writes there, line by line: when the ranks have come together, how
many, and at which step they begin; and for each step that it has made, the images of its share and
how many operations summed its gradients over the ranks. The process of that slot, as in
localhost:0, comes to grief (kill, stop or leave) at some moment of the step, once; `await` names a
step before which one rank waits for more; `hasty` ones sum gradients as Horovod's trainer does by
itself: each on its own, and an update does not wait for all of them.
"""

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

log, words = Path(sys.argv[1]), sys.argv[2:]
grief, slot, at_step, await_step = None, None, None, None
if words[0] in ("kill", "stop", "leave"):
    grief, slot, at_step, words = words[0], words[1], int(words[2]), words[3:]
if words[0] == "await":
    await_step, words = int(words[1]), words[2:]
is_hasty = words[0] == "hasty"
words = words[is_hasty:]
sys.argv[1:] = words

from dist_ft import train  # noqa: E402
from dist_ft.distributed.elastic_world import ElasticWorld  # noqa: E402
from dist_ft.distributed.horovod_world import HorovodWorld  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "leave": signal.SIGTERM}
MINE = f"{os.environ.get('HOROVOD_HOSTNAME')}:{os.environ.get('HOROVOD_LOCAL_RANK')}"

log.mkdir(parents=True, exist_ok=True)
lines = (log / f"{time.time():.3f}-{os.getpid()}").open("w", buffering=1)
enter, exchange, after = Run.__enter__, Run.begin_step, Run.end_step
held = {}
sums = []


def count(module, name):
    operation = getattr(module, name)

    def counted(*args, **kwargs):
        sums.append(name)
        return operation(*args, **kwargs)

    setattr(module, name, counted)


def come_to_grief():
    time.sleep(random.uniform(0, 0.05))  # in whatever the step does then
    lines.write(json.dumps({"grief": time.time()}) + "\n")
    os.kill(os.getpid(), SIGNALS[grief])


def telling_enter(run):
    since = run.world.gather(time.time())[0]
    lines.write(json.dumps({"since": since, "begins": run.step, "size": run.world.size}) + "\n")
    return enter(run)


def telling_exchange(run, step, batch, stop):
    marked = log / "grief"
    if step == at_step and slot == MINE and not marked.exists():
        marked.touch()
        threading.Thread(target=come_to_grief).start()
    if step == await_step and run.world.size == 1:
        deadline = time.monotonic() + 60
        while not run.world.session.resize_pending and time.monotonic() < deadline:
            time.sleep(0.05)
            run.world.heartbeat("waiting for hosts")
    sums.clear()  # of a step that was not finished
    real = batch.x[batch.mask > 0]
    held[step] = [hashlib.sha256(image.tobytes()).hexdigest()[:12] for image in real]
    return exchange(run, step, batch, stop)


def telling_after(run, step, *sums_and_images):
    told = {"step": step, "images": held[step], "sums": len(sums)}
    lines.write(json.dumps({**told, "at": time.time()}) + "\n")
    after(run, step, *sums_and_images)


def trainer_of_horovod(world, params, optimizer):
    world._settings = world._settings._replace(num_groups=0)
    return HorovodWorld.trainer(world, params, optimizer)


if is_hasty:
    ElasticWorld.trainer = trainer_of_horovod
if "HOROVOD_ELASTIC" in os.environ:
    import horovod.mxnet as hvd

    count(hvd, "allreduce_")
    count(hvd, "grouped_allreduce_")
Run.__enter__, Run.begin_step, Run.end_step = telling_enter, telling_exchange, telling_after
train.main()
