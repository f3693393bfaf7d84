"""A headless Chromium, driven by Selenium, for tests of rendered pages."""

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
# Screenshots are kept here, to be looked at after the tests.
SCREENSHOTS = Path(__file__).resolve().parent.parent / "build" / "screenshots"
DESKTOP, PHONE = (1280, 900), (390, 844)  # viewport, px

# The text of a page, including shadow DOM and frames.
TEXT = """return (function text(node) {
  if (!node || ['SCRIPT', 'STYLE'].includes(node.nodeName)) return '';
  if (node.nodeType === 3) return node.data;
  const inner = [node.shadowRoot, node.contentDocument?.body, ...(node.childNodes || [])];
  return inner.map(text).join(' ');
})(document.body).replace(/\\s+/g, ' ')"""

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
)


class Browser:
    """A browser with one page."""

    def __init__(self) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in FLAGS:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))

    def open(self, address: str, size: tuple[int, int] = DESKTOP) -> None:
        """Opens a page in a viewport of this size, which is a phone's if as narrow as PHONE."""
        self._driver.get("about:blank")
        self.errors()
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._command("Emulation.setDeviceMetricsOverride", **metrics, mobile=width <= PHONE[0])
        self._driver.get(address)

    def errors(self) -> list[str]:
        """Errors of scripts and missing resources since the last call."""
        return [e["message"] for e in self._driver.get_log("browser") if e["level"] == "SEVERE"]

    def evaluate(self, expression: str) -> Any:
        return self._driver.execute_script(f"return {expression}")

    def wait_for(self, text: str, timeout_s: float = 30) -> None:
        """Waits until the page contains the text."""
        end = time.monotonic() + timeout_s
        while text not in (shown := self._driver.execute_script(TEXT) or ""):
            assert time.monotonic() < end, f"no {text!r} in {shown!r}"
            time.sleep(0.1)

    def wait_until_still(self, timeout_s: float = 15) -> None:
        """Waits until the page has not changed for a second; some animations never end."""
        end, before = time.monotonic() + timeout_s, None
        while time.monotonic() < end and (now := self._capture()) != before:
            before = now
            time.sleep(1)

    def screenshot(self, name: str, whole: bool = False) -> Path:
        """A PNG of the viewport or the whole page, kept in SCREENSHOTS."""
        path = SCREENSHOTS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._capture(whole)))
        return path

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._driver.print_page())

    def close(self) -> None:
        self._driver.quit()

    def _capture(self, whole: bool = False) -> str:
        return self._command("Page.captureScreenshot", captureBeyondViewport=whole)["data"]

    def _command(self, command: str, **parameters: Any) -> dict[str, Any]:
        return self._driver.execute_cdp_cmd(command, parameters)
