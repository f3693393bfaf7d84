"""A probe on a host, reached by ssh: it is asked, and answers or is given up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from shlex import quote
from typing import Any, Sequence

from dist_ft import network, probe
from dist_ft.errors import UserError

# As launch/ssh/ssh has them: it asks nobody, and notices a dead link.
SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"),
    *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4"),
)
TAKEN_ALONG = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")  # of this environment
NO_FOLDER, NO_PYTHON, NO_SSH = 11, 12, 255  # exit statuses; the last one is ssh's own
ENDS_S = 2.0
LONGEST_ANSWER = 2**24  # bytes


class Lost(UserError):
    """A host that cannot be asked, or no longer; the message does not name it."""


def words_for(host: str, port: str, key: str) -> list[str]:
    """The command that runs a probe on a host; on this one, ssh is not needed."""
    folder, python = os.getcwd(), sys.executable
    taken = [f"{name}={os.environ[name]}" for name in TAKEN_ALONG if name in os.environ]
    script = (
        f"cd {quote(folder)} || exit {NO_FOLDER}; [ -x {quote(python)} ] || exit {NO_PYTHON}; "
        f"exec env {' '.join(map(quote, taken))} {quote(python)} -m {probe.__name__}"
    )
    if network.is_here(host):
        return ["sh", "-c", script]
    return [
        *SSH,
        *(["-p", port] if port else []),
        *(["-i", key] if key else []),
        "--",
        host,
        script,
    ]


class Remote:
    """A probe that runs; `words` is the command that it is."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Any):
        self._process, self._errors = process, errors

    @classmethod
    async def start(cls, words: Sequence[str]) -> Remote:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, stderr=errors, limit=LONGEST_ANSWER
        )
        return cls(process, errors)

    async def ask(self, allowed_s: float, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises Lost where none comes, or not within allowed_s."""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            return await asyncio.wait_for(self._answer(), allowed_s)
        except asyncio.TimeoutError:
            raise Lost(f"no answer within {allowed_s:.0f} s") from None

    async def _answer(self) -> dict[str, Any]:
        mark = probe.MARK.encode()
        async for line in self._process.stdout:
            if line.startswith(mark):
                return json.loads(line[len(mark) :])
        raise Lost(self._last_words(await self._process.wait()))

    def _last_words(self, status: int) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        told = lines[-1].strip() if lines else "nothing was said"
        if status == NO_FOLDER:
            return f"there is no folder {os.getcwd()}; the hosts share it, or have a copy there"
        if status == NO_PYTHON:
            return f"there is no {sys.executable}; install there too, at the same place"
        if status == NO_SSH:
            return f"ssh does not come through: {told}"
        return f"the probe ended with status {status}: {told}"

    async def close(self) -> None:
        """Ends the probe, which does so by itself when nobody can ask any more."""
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), ENDS_S)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._errors.close()
