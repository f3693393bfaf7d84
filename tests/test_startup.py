"""startup.start: which world a process joins, and how it ends."""

from __future__ import annotations

import signal

import pytest

from dist_ft.distributed import launcher, startup
from dist_ft.distributed.horovod_settings import HorovodSettings
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, UserError
from tests.conftest import ENVIRONMENT, run_job
from tests.test_launcher import SLURM_SHELL


@pytest.fixture(autouse=True)
def single_process(monkeypatch):
    for name in (*launcher.SIZE, *launcher.RANK, *launcher.LOCAL_SIZE, *launcher.LOCAL_RANK):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_the_world_is_a_single_process(caplog):
    settings = HorovodSettings(timeline="timeline.json", autotune=True)
    with startup.start("cpu", settings=settings) as world:
        assert type(world) is World
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert "a single process does not use --horovod-timeline" in caplog.text


@pytest.mark.parametrize(
    "error, status, message",
    [
        (UserError("the disk is full"), 1, "dist_ft: the disk is full\n"),
        (CollectiveError("stopped by SIGUSR1", 75), 75, "dist_ft: stopped by SIGUSR1\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, ""),
    ],
)
def test_an_expected_error_ends_the_process_with_a_message(capsys, error, status, message):
    with pytest.raises(SystemExit) as ended, startup.start("cpu"):
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err == message


def test_an_unexpected_error_of_a_single_process_is_raised():
    with pytest.raises(ZeroDivisionError), startup.start("cpu"):
        raise ZeroDivisionError


def test_an_unusable_device_ends_the_process_with_a_message(capsys):
    with pytest.raises(SystemExit) as ended, startup.start("gpu"):
        pass
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("dist_ft: --device gpu: ")


@pytest.mark.jobs
def test_a_slurm_shell_is_a_single_process_and_needs_no_horovod():
    program = (
        "import sys; from dist_ft.distributed import startup\n"
        "with startup.start('cpu') as world: print('type:', type(world).__name__)\n"
        "assert 'horovod' not in sys.modules"
    )
    variables = (*launcher.SIZE, *launcher.LOCAL_SIZE)
    clean = {name: value for name, value in ENVIRONMENT.items() if name not in variables}
    ended = run_job(["-c", program], 60, environment={**clean, **SLURM_SHELL})
    assert ended.status == 0, ended.output
    assert "type: World\n" in ended.output
