"""What a rank that fails reports: its exit status and its error message."""

from __future__ import annotations

import signal
import traceback

from dist_ft.errors import UserError


def exit_code(error: BaseException) -> int:
    """The exit status of a process that this error ends."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return getattr(error, "exit_code", 1)


def describe(error: BaseException, rank_name: str = "") -> str:
    """The message of a user's error; of any other, the traceback below the name of the rank."""
    if isinstance(error, UserError):
        return str(error)
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return f"{rank_name}\n{''.join(lines)}".strip()
