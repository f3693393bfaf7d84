"""`start`: joins the world that this process was launched into, and ends the process on errors."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import Iterator, NoReturn

from dist_ft.distributed import exits, launcher
from dist_ft.distributed.horovod_settings import DEFAULTS, HorovodSettings
from dist_ft.distributed.horovod_world import HorovodWorld
from dist_ft.distributed.rank_failure import is_rank_failure
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError, RankStopped, UserError

logger = logging.getLogger(__name__)


@contextmanager
def start(
    device: str = "auto",
    stall_timeout_s: float = 300.0,
    settings: HorovodSettings = DEFAULTS,
    job_world: type[HorovodWorld] = HorovodWorld,
) -> Iterator[World]:
    """The world of this process: a single process, or one rank of a Horovod job.

    An error in the body ends the process, and with it the whole job; this is the only place where a
    rank ends. The message of a UserError is printed to standard error, of any other error the
    traceback, too.

    stall_timeout_s: how long a rank may make no progress; job_world: the class for Horovod jobs.
    """
    try:
        world = _join(device, stall_timeout_s, settings, job_world)
    except UserError as error:
        _exit(str(error), error.exit_code)
    try:
        if isinstance(world, HorovodWorld) and settings.timeline:
            world.start_timeline()
        yield world
    except BaseException as error:
        if isinstance(world, HorovodWorld):
            _end_rank(world, error)
        _end_single_process(world, error)
    else:
        world.close()


def _join(
    device: str, stall_timeout_s: float, settings: HorovodSettings, job_world: type[HorovodWorld]
) -> World:
    if launcher.launched_size() > 0:
        return job_world(device, stall_timeout_s, settings)
    if settings.timeline or settings.autotune:
        logger.warning("a single process does not use --horovod-timeline and --autotune")
    return World(device, stall_timeout_s)


def _end_single_process(world: World, error: BaseException) -> NoReturn:
    world.close()
    if isinstance(error, UserError):
        _exit(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        sys.exit(exits.exit_code(error))
    raise error


def _end_rank(world: HorovodWorld, error: BaseException) -> NoReturn:
    if isinstance(error, CollectiveError):  # all ranks have raised it, and end in order
        message = str(error) if world.is_main else ""
        world.close()
        _exit(message, error.exit_code)
    if isinstance(error, RankStopped):
        world.close()  # no collective call is pending: the other ranks shut Horovod down, too
    if is_rank_failure(error):
        message = f"{world.name}: ended because another rank has ended"
    else:
        message = f"{world.name}: {exits.describe(error)}"
    _print_error(message)
    world.abort(exits.exit_code(error))
    raise AssertionError("unreachable: the process has ended")


def _exit(message: str, exit_code: int) -> NoReturn:
    if message:
        _print_error(message)
    sys.exit(exit_code)


def _print_error(message: str) -> None:
    """Writes the last words of this process, after all that it has printed before."""
    sys.stdout.flush()
    print(f"dist_ft: {message}", file=sys.stderr, flush=True)
