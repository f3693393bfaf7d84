"""A headless Chromium, driven by Selenium, for tests of what a person sees."""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium here (apt-get install chromium chromium-driver)"
)
# Where pictures of what was seen are left, to be looked at after a run of the tests.
SCREENSHOTS = Path(__file__).resolve().parent.parent / "build" / "screenshots"
DESKTOP, PHONE = (1280, 900), (390, 844)  # px of the page that are seen at once

# The text of a page, also of what its components keep in a shadow of theirs, and in frames.
TEXT = """return (function text(node) {
  if (!node || ['SCRIPT', 'STYLE'].includes(node.nodeName)) return '';
  if (node.nodeType === 3) return node.data;
  const inner = [node.shadowRoot, node.contentDocument?.body, ...(node.childNodes || [])];
  return inner.map(text).join(' ');
})(document.body).replace(/\\s+/g, ' ')"""


class Browser:
    """One page at a time."""

    def __init__(self) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{flag}")
        for flag in ("disable-background-networking", "disable-component-update", "disable-sync"):
            options.add_argument(f"--{flag}")  # it is not to ask for anything but the page
        options.add_argument("--hide-scrollbars")  # as wide as it is said to be
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))

    def open(self, address: str, size: tuple[int, int] = DESKTOP) -> None:
        """size: as narrow as a phone's it is a phone's; its pages have the width they ask for."""
        self._driver.get("about:blank")
        self.complaints()
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._do("Emulation.setDeviceMetricsOverride", **metrics, mobile=width <= PHONE[0])
        self._driver.get(address)

    def complaints(self) -> list[str]:
        """The errors of the page's scripts and of what it loads, since this was last asked."""
        return [e["message"] for e in self._driver.get_log("browser") if e["level"] == "SEVERE"]

    def value_of(self, expression: str) -> Any:
        return self._driver.execute_script(f"return {expression}")

    def wait_for(self, words: str, timeout_s: float = 30) -> str:
        """The page's text, once the words are in it."""
        end = time.monotonic() + timeout_s
        while words not in (text := self._driver.execute_script(TEXT) or ""):
            assert time.monotonic() < end, f"no {words!r} in {text!r}"
            time.sleep(0.1)
        return text

    def wait_until_still(self, timeout_s: float = 15) -> None:
        """Until what is seen has not changed for a second; not for ever, since some pages turn."""
        end, before = time.monotonic() + timeout_s, None
        while time.monotonic() < end and (now := self._seen()) != before:
            before = now
            time.sleep(1)

    def _seen(self) -> str:
        return self._do("Page.captureScreenshot")["data"]

    def screenshot(self, name: str, whole: bool = False) -> Path:
        """A PNG of what is seen, or of the whole page; kept in SCREENSHOTS."""
        shot = self._do("Page.captureScreenshot", captureBeyondViewport=whole)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
        return SCREENSHOTS / f"{name}.png"

    def printed(self) -> bytes:
        """The page on paper, as PDF."""
        return base64.b64decode(self._driver.print_page())

    def close(self) -> None:
        self._driver.quit()

    def _do(self, command: str, **parameters: Any) -> dict[str, Any]:
        return self._driver.execute_cdp_cmd(command, parameters)
