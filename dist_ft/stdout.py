"""Standard output as a command that answers on it has to treat it: whoever reads, and however."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def given() -> Iterator[None]:
    """For a command's whole work.

    Names that the output's encoding lacks are escaped. A reader that has seen enough, as of
    `| head`, ends the command with status 1 and without a word; a full disk, with a message.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _leave()
        sys.exit(1)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _leave()
        sys.exit(f"dist_ft: the standard output cannot be written ({error.strerror})")


def _leave() -> None:
    """What is still to be written goes nowhere: Python would try again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
