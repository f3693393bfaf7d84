"""A run that comes to grief once, and tells what it does: `befall.py KIND LOG FLAGS...`.

As by elastic.py each step that was made is written into the folder LOG. LOG/grief holds the moment
of the fault; while it is there, nothing more happens. What only others can do (a link that goes
down, a host that comes or goes) rank 0 waits for: it makes LOG/ready, and goes on when LOG/grief is
there. What is wrong from the start is so until there is a LOG/mended.
"""

import os
import random
import resource
import runpy
import signal
import sys
import time
from pathlib import Path

AT_STEP = 18  # two after a checkpoint and a commit

kind, log = sys.argv[1], Path(sys.argv[2])
del sys.argv[1]
log.mkdir(parents=True, exist_ok=True)
grief, mended = log / "grief", log / "mended"
rank = os.environ.get("HOROVOD_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
if kind == "slow" and os.environ.get("HOROVOD_HOSTNAME") != "127.0.0.1":
    time.sleep(20)
if kind in ("data", "version") and rank == "1" and not mended.exists():
    grief.write_text(repr(time.time()))
    if kind == "data":
        sys.argv += ["--data", str(log / "other")]
    else:
        sys.path.insert(0, str(log / "other"))

from dist_ft.data import decoding  # noqa: E402
from dist_ft.training import checkpoint  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

exchange = Run.begin_step


def begin() -> None:
    grief.write_text(repr(time.time()))


def kill(signum):
    begin()
    os.kill(os.getpid(), signum)


def raise_exception(run):
    begin()
    raise RuntimeError("a fault of the table's")


def leave(run):
    begin()
    sys.exit(3)


def sleep(*_):
    begin()
    time.sleep(10_000)


def hang_in_decode(run):
    """From the next image on that is decoded, which is the next epoch's first."""
    decoding.open_image = sleep


def fill_disk(run):
    begin()
    disk = os.statvfs(run.options.folder)
    (run.options.folder / "filler").write_bytes(bytes(disk.f_bavail * disk.f_bsize))


def die_in_saving(run):
    """At one of the things that Python asks of the system while the next checkpoint is written."""
    save, left, saving = checkpoint.save, random.randrange(1, 40), []

    def die(event, args):
        nonlocal left
        left -= bool(saving) and event.split(".")[0] in ("os", "open", "shutil")
        if saving and left == 0:
            saving.clear()
            kill(signal.SIGKILL)

    def dangerous(*args, **options):
        saving.append(True)
        path = save(*args, **options)
        saving.clear()
        return path

    checkpoint.save = dangerous
    sys.addaudithook(die)


def be_killed_for_memory(run):
    """By the kernel, in a control group that may hold 64 MB."""
    group = Path("/sys/fs/cgroup/memory", f"dist_ft-{os.getpid()}")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    begin()
    bytearray(os.urandom(2**20) * 256)


def allocate_too_much(run):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, resource.RLIM_INFINITY))
    begin()
    bytearray(256 * 2**20)


def await_others(run):
    """Until the fault is there; an elastic run also waits to hear of it."""
    (log / "ready").touch()
    deadline = time.monotonic() + 60
    is_host = kind in ("add", "slow", "remove")
    while not (grief.exists() and (run.world.session.resize_pending or not is_host)):
        assert time.monotonic() < deadline, "nothing has happened"
        run.world.heartbeat("waiting for the fault")
        time.sleep(0.05)


FAULTS = {  # and the rank that it happens to
    "kill": (1, lambda run: kill(signal.SIGKILL)),
    "exception": (1, raise_exception),
    "exit": (1, leave),
    "stop": (1, lambda run: kill(signal.SIGSTOP)),
    "decode": (1, hang_in_decode),
    "collective": (1, sleep),
    "link": (0, await_others),
    "remove": (0, await_others),
    "add": (0, await_others),
    "slow": (0, await_others),
    "disk": (0, fill_disk),
    "save": (0, die_in_saving),
    "terminate": (1, lambda run: kill(signal.SIGTERM)),
    "oom": (1, be_killed_for_memory),
    "memory": (1, allocate_too_much),
}


def faulty_exchange(run, step, batch, stop):
    victim, happen = FAULTS.get(kind, (None, None))
    if step == AT_STEP and run.world.rank == victim and not grief.exists():
        happen(run)
    return exchange(run, step, batch, stop)


Run.begin_step = faulty_exchange
runpy.run_path(str(Path(__file__).with_name("elastic.py")), run_name="__main__")
