"""Errors that the person at the keyboard can mend: shown as a message, without a traceback."""


class UserError(Exception):
    """The message names the thing, its value and the remedy."""

    exit_code = 1


class Unavailable(UserError):
    """Something that had to be fetched cannot be had."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class Joint(UserError):
    """An error that every rank raises alike, at the same place: one of them prints it."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code
