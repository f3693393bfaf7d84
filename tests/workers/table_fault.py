"""A recorded run with one fault, for the fault table: `table_fault.py FAULT LOG FLAGS...`.

Records every step in the folder LOG, as elastic.py does. LOG/fault holds the time of the fault;
while it exists, no further fault happens. For faults from outside (a link goes down, a host is
added or removed), rank 0 creates LOG/ready and waits for LOG/fault. A wrong configuration stays so
until LOG/repaired exists.
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
MEMORY_LIMIT = 64 * 2**20

fault, log = sys.argv[1], Path(sys.argv[2])
del sys.argv[1]
log.mkdir(parents=True, exist_ok=True)
happened, repaired = log / "fault", log / "repaired"
rank = os.environ.get("HOROVOD_RANK", os.environ.get("OMPI_COMM_WORLD_RANK"))
if fault == "slow" and os.environ.get("HOROVOD_HOSTNAME") != "127.0.0.1":
    time.sleep(20)
if fault in ("data", "version") and rank == "1" and not repaired.exists():
    happened.write_text(repr(time.time()))
    if fault == "data":
        sys.argv += ["--data", str(log / "other")]
    else:
        sys.path.insert(0, str(log / "other"))

from dist_ft.data import decoding  # noqa: E402
from dist_ft.training import checkpoint  # noqa: E402
from dist_ft.training.run import Run  # noqa: E402

begin_step = Run.begin_step


def note_time() -> None:
    happened.write_text(repr(time.time()))


def send(signum):
    note_time()
    os.kill(os.getpid(), signum)


def raise_exception(run):
    note_time()
    raise RuntimeError("an injected fault")


def leave(run):
    note_time()
    sys.exit(3)


def hang(*_):
    note_time()
    time.sleep(10_000)


def hang_in_decoder(run):
    """At the next image that is decoded, which belongs to the next epoch."""
    decoding.open_image = hang


def fill_disk(run):
    note_time()
    disk = os.statvfs(run.options.folder)
    (run.options.folder / "filler").write_bytes(bytes(disk.f_bavail * disk.f_bsize))


def die_while_saving(run):
    """At a random system call during the next checkpoint."""
    save, calls_left, is_saving = checkpoint.save, random.randrange(1, 40), False

    def die(event, args):
        nonlocal calls_left, is_saving
        if not is_saving or event.split(".")[0] not in ("os", "open", "shutil"):
            return
        calls_left -= 1
        if calls_left == 0:
            is_saving = False
            send(signal.SIGKILL)

    def dangerous_save(*args, **options):
        nonlocal is_saving
        is_saving = True
        path = save(*args, **options)
        is_saving = False
        return path

    checkpoint.save = dangerous_save
    sys.addaudithook(die)


def exceed_memory_limit(run):
    """The kernel kills this process, in a control group of 64 MB."""
    group = Path("/sys/fs/cgroup/memory", f"dist_ft-{os.getpid()}")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(MEMORY_LIMIT))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    note_time()
    bytearray(os.urandom(2**20) * 256)


def fail_to_allocate(run):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, resource.RLIM_INFINITY))
    note_time()
    bytearray(4 * MEMORY_LIMIT)


def wait_for_fault(run):
    """Until the fault has happened, and the run has been notified of a change of hosts."""
    (log / "ready").touch()
    deadline = time.monotonic() + 60
    changes_hosts = fault in ("add", "slow", "remove")
    while not (happened.exists() and (run.world.session.resize_pending or not changes_hosts)):
        assert time.monotonic() < deadline, "the fault has not happened"
        run.world.heartbeat("waiting for the fault")
        time.sleep(0.05)


FAULTS = {  # with the rank that they happen on
    "kill": (1, lambda run: send(signal.SIGKILL)),
    "exception": (1, raise_exception),
    "exit": (1, leave),
    "stop": (1, lambda run: send(signal.SIGSTOP)),
    "decode": (1, hang_in_decoder),
    "collective": (1, hang),
    "link": (0, wait_for_fault),
    "remove": (0, wait_for_fault),
    "add": (0, wait_for_fault),
    "slow": (0, wait_for_fault),
    "disk": (0, fill_disk),
    "save": (0, die_while_saving),
    "terminate": (1, lambda run: send(signal.SIGTERM)),
    "oom": (1, exceed_memory_limit),
    "memory": (1, fail_to_allocate),
}


def faulty_begin_step(run, step, *args):
    faulty_rank, inject = FAULTS.get(fault, (None, None))
    if step == AT_STEP and run.world.rank == faulty_rank and not happened.exists():
        inject(run)
    return begin_step(run, step, *args)


Run.begin_step = faulty_begin_step
runpy.run_path(str(Path(__file__).with_name("elastic.py")), run_name="__main__")
