"""A headless Chromium that tests talk to through a pipe, in its DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here (apt-get install chromium)"
)

# The text of a page, also of what its components keep in a shadow of theirs, and in frames.
TEXT = """(function text(node) {
  if (!node || ['SCRIPT', 'STYLE'].includes(node.nodeName)) return '';
  if (node.nodeType === 3) return node.data;
  const inner = [node.shadowRoot, node.contentDocument?.body, ...(node.childNodes || [])];
  return inner.map(text).join(' ');
})(document.body).replace(/\\s+/g, ' ')"""


class Browser:
    """One page; `complaints` are its errors since it was opened."""

    def __init__(self, profile: str):
        down, up = os.pipe(), os.pipe()
        # Chromium reads commands from 3 and writes answers to 4.
        shell = f"exec 3<&{down[0]} 4>&{up[1]}; exec"
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe"
        self._process = subprocess.Popen(
            ["bash", "-c", f'{shell} "$0" "$@"', CHROMIUM, *flags.split()]
            + [f"--user-data-dir={profile}", "--window-size=1400,1000", "about:blank"],
            pass_fds=(down[0], up[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down[0])
        os.close(up[1])
        self._to, self._from = os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")
        self._read, self._number, self._session = b"", 0, None
        self.complaints: list[str] = []
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        attached = self._do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def open(self, address: str) -> None:
        self._do("Page.navigate", url="about:blank")
        self.complaints.clear()
        self._do("Page.navigate", url=address)

    def value_of(self, script: str) -> Any:
        return self._do("Runtime.evaluate", expression=script)["result"].get("value")

    def wait_for(self, words: str, timeout_s: float = 30) -> str:
        """The page's text, once the words are in it."""
        end = time.monotonic() + timeout_s
        while words not in (text := self.value_of(TEXT) or ""):
            assert time.monotonic() < end, f"no {words!r} in {text!r}"
            time.sleep(0.1)
        return text

    def close(self) -> None:
        self._do("Browser.close")
        self._process.wait(timeout=20)
        self._to.close()
        self._from.close()

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        call = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            call["sessionId"] = self._session
        self._to.write(json.dumps(call).encode() + b"\0")
        self._to.flush()
        while True:
            heard = self._next()
            self._note(heard.get("method"), heard.get("params"))
            if heard.get("id") == self._number:
                assert "error" not in heard, heard
                return heard["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = os.read(self._from.fileno(), 65536)
            assert part, "Chromium has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def _note(self, method: str | None, told: Any) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.complaints.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(told["entry"]["text"])
