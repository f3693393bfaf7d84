"""Errors that the user can fix, and the errors by which all ranks of a job stop together."""

from __future__ import annotations


class UserError(Exception):
    """An error shown as one message without a traceback: the thing, its value and the remedy."""

    exit_code = 1

    def __init__(self, message: str, exit_code: int | None = None):
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class Unavailable(UserError):
    """Something that had to be downloaded is unavailable."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class CollectiveError(UserError):
    """An error that every rank raises at the same place; rank 0 prints it."""


class WorldResized(Exception):
    """All ranks of an elastic run raise it together, to continue with the ranks there are now."""


class RankStopped(UserError):
    """Raised by a rank that was asked to stop while the others raise WorldResized."""
