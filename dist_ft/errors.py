"""Errors that the person at the keyboard can mend, shown as a message, without a traceback; and
what the ranks of an elastic run raise where they part."""


class UserError(Exception):
    """The message names the thing, its value and the remedy."""

    exit_code = 1

    def __init__(self, message: str, exit_code: int | None = None):
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class Unavailable(UserError):
    """Something that had to be fetched cannot be had."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class CollectiveError(UserError):
    """An error that every rank raises alike, at the same place: one of them prints it."""


class WorldResized(Exception):
    """The ranks of an elastic run raise it alike: it goes on with those that there are now."""


class RankStopped(UserError):
    """A rank that was asked to stop raises it where the others raise Resized: it ends alone."""
