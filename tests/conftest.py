"""Shared fixtures: small data sets, and launches of real jobs with time limits."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

import tests.gpus  # noqa: F401 - hides them, before MXNet looks for them
from dist_ft.distributed import watchdog
from tests.browser import Browser
from tests.fileserver import FileServer
from tests.images import make_folder

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
HAS_MPI = shutil.which("mpirun") is not None

# Ranks may share two cores, so each gets one thread.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(REPO),
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}

# A run of a few seconds: 53 images in steps of 24, 24 and 5, which no number of ranks divides.
TINY = [
    *("--model", "mobilenet0.25", "--weights", "none", "--image-size", "32"),
    *("--batch-size", "24", "--lr", "0.05", "--epochs", "1"),
]


# Real photographs and pretrained weights, which are not part of the project.
FOOD5 = Path(os.environ.get("DIST_FT_FOOD5", REPO.parent / "shared" / "food5-64px"))
WEIGHTS = Path(
    os.environ.get(
        "DIST_FT_WEIGHTS", REPO.parent / "shared" / "weights" / "resnet34_v2-food96-64px.params"
    )
)
needs_photographs = pytest.mark.skipif(
    not FOOD5.is_dir(), reason=f"no images in {FOOD5} (DIST_FT_FOOD5)"
)


class Ended(NamedTuple):
    """The result of a job."""

    status: int
    output: str  # of the launcher and all ranks, standard output and error
    elapsed_s: float


def pytest_configure(config):
    _restore_signals()
    # Not captured yet: else the stacks of a crash in a worker would be lost with its output.
    watchdog.STDERR = os.dup(2)
    config.option.loadscopereorder = False  # pytest-xdist keeps our order of the modules
    for module in ("mxnet", "gluoncv", "tensorboardX", "matplotlib"):
        config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{module}")


def pytest_collection_modifyitems(items):
    """Starts with the modules whose tests take longest, most of it waiting for jobs.

    At the end only quick ones are left, so that parallel workers finish together.
    """
    first = ("cluster", "browser", "benchmarks", "jobs")
    tiers: dict[Path, int] = {}
    for item in items:
        tier = min((first.index(m.name) for m in item.iter_markers() if m.name in first), default=4)
        tiers[item.path] = min(tiers.get(item.path, tier), tier)
    items.sort(key=lambda item: tiers[item.path])


def _restore_signals() -> None:
    """Gives the jobs default signal handling, whatever pytest inherited.

    Background jobs of a shell inherit SIGINT as ignored and `nohup` ignores SIGHUP; both would be
    passed on to every job that a test sends a signal to. A Python handler is reset to the default
    in a child, so that pytest itself still survives the hangup.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda signum, frame: None)


def run_job(
    words: list[str],
    timeout_s: float,
    num_ranks: int = 0,
    mpi: bool = False,
    cwd: Path = REPO,
    environment: dict[str, str] = ENVIRONMENT,
) -> Ended:
    """Runs `python WORDS`, under horovodrun if num_ranks is given, until it ends.

    A job that exceeds the time limit fails the test with the stacks of its processes.
    """
    command = [sys.executable, *words]
    if num_ranks:
        # 127.0.0.1, because not every machine has localhost in /etc/hosts.
        launcher = ["horovodrun", "-np", str(num_ranks), "-H", f"127.0.0.1:{num_ranks}"]
        command = [*launcher, "--mpi" if mpi else "--gloo", *command]
    return run_command(command, timeout_s, cwd, environment)


def run_command(
    command: list[str],
    timeout_s: float,
    cwd: Path = REPO,
    environment: dict[str, str] = ENVIRONMENT,
) -> Ended:
    """Runs any command in the same way."""
    start = time.monotonic()
    job = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = job.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        stacks = _stacks(job.pid)
        _kill_session(job.pid)
        output, _ = job.communicate()
        pytest.fail(f"still running after {timeout_s} s: {' '.join(command)}\n{output}\n{stacks}")
    untagged = re.sub(r"\[(1,)?\d+\]<std(out|err)>:", "", output)  # mpirun tags the middle of lines
    return Ended(job.returncode, untagged, time.monotonic() - start)


def _members(leader: int) -> list[int]:
    """The descendants of a process; horovodrun starts some of them in their own sessions."""
    import psutil

    try:
        return [p.pid for p in psutil.Process(leader).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _stacks(leader: int) -> str:
    dumps = [
        subprocess.run([BIN / "py-spy", "dump", "--pid", str(pid)], capture_output=True, text=True)
        for pid in _members(leader)
    ]
    return "\n".join(dump.stdout or dump.stderr.partition("\n")[0] for dump in dumps)


def _kill_session(leader: int) -> None:
    for pid in [*_members(leader), leader]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def train(*flags: str, num_ranks: int = 0, mpi: bool = False, timeout_s: float = 120) -> Ended:
    """Runs `python -m dist_ft.train`, which must succeed."""
    ended = run_job(["-m", "dist_ft.train", *flags], timeout_s, num_ranks, mpi)
    assert ended.status == 0, ended.output
    return ended


@pytest.fixture(autouse=True)
def _restore_logging():
    """Undoes `cli.configure_logging`, which a test may have called through a command."""
    logger = logging.getLogger("dist_ft")
    before = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.level, logger.propagate, logger.handlers[:] = before


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Five classes, 53 training and 101 test images: both numbers are prime."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    return make_folder(root, train=(13, 9, 11, 10, 10), test=(21, 20, 20, 20, 20))


@pytest.fixture(scope="module")
def no_figures():
    """Drawing them takes most of the time of a tiny run; test_run_logger tests them."""
    from dist_ft.tracking.evaluation_figures import EvaluationFigures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationFigures, "draw_pending", lambda figures: None)
        yield


@pytest.fixture(scope="session")
def world():
    """A single process on the CPU, without a stall timeout: tests may leave it idle for long."""
    from dist_ft.distributed.world import World

    world = World("cpu", stall_timeout_s=24 * 3600)
    yield world
    world.close()


@pytest.fixture
def call(monkeypatch, capfd):
    """Runs a command's main() in this process; returns its exit status, output and error output."""

    def run(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["dist_ft", *map(str, arguments)])
        status = 0
        try:
            command.main()
        except SystemExit as exit:
            status = exit.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
                status = 1
        sys.stdout.flush()
        return (status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def trained_run(tiny, world, tmp_path_factory) -> Path:
    """A run of a few epochs on the tiny data set, in this process. Not to be changed."""
    from dist_ft.config import Config
    from dist_ft.train import fit

    out = tmp_path_factory.mktemp("trained") / "run"
    fit(
        Config(
            data=str(tiny),
            out=str(out),
            model="mobilenet0.25",
            weights="none",
            image_size=32,
            keep_ratio=True,
            batch_size=8,
            epochs=6,
            lr=0.05,
            momentum=0.9,
            head_lr_mult=1.0,
            num_workers=2,
        ),
        world,
    )
    return out


@pytest.fixture(scope="session")
def fine_tuned(tmp_path_factory) -> Path:
    """A run of one epoch of two ranks on real photographs, from pretrained weights."""
    if not (FOOD5.is_dir() and WEIGHTS.is_file()):
        pytest.skip(
            f"no images in {FOOD5} (DIST_FT_FOOD5) or no weights in {WEIGHTS} (DIST_FT_WEIGHTS)"
        )
    out = tmp_path_factory.mktemp("fine_tuned") / "run"
    flags = ["--data", str(FOOD5), "--weights", str(WEIGHTS), "--image-size", "64"]
    train(*flags, "--epochs", "1", "--out", str(out), num_ranks=2, timeout_s=600)
    return out


@pytest.fixture(scope="session")
def weight_files(tmp_path_factory) -> Path:
    """A folder with the weights of one network in each format that users have."""
    from tests.networks import write_weight_files

    folder = tmp_path_factory.mktemp("weight_files")
    write_weight_files(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Closed with the module: TensorBoard's animations use half of a core as long as it is open."""
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def server(monkeypatch):
    """A file server on loopback, and downloads that are retried at once."""
    from dist_ft.models import download

    monkeypatch.setattr(download, "RETRY_DELAY_S", 0.01)
    with FileServer() as server:
        yield server


needs_mpi = pytest.mark.skipif(not HAS_MPI, reason="no mpirun here (apt-get install openmpi-bin)")
