"""A real Chromium, controlled through chromedriver by the WebDriver protocol.

Commands run in a thread, so that the servers of the page may run in the test's event loop. Tests wait for the
content of the page.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.e2e.harness import PATIENCE_S

PROGRAMS = (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
READY = (
    "(at => at?.checkVisibility() && !at.disabled && at.getAttribute('aria-disabled') !== 'true')"
    "(document.querySelector(arguments[0]))"
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = [
    "--headless",
    "--no-sandbox",  # Chromium has no sandbox for root. It opens only pages of the tests.
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
]


class Browser:
    """One window. Every CSS selector must match an element."""

    def __init__(self, base: str, session: str) -> None:
        self._base = f"{base}/session/{session}"

    async def open(self, url: str) -> None:
        await self._command("POST", "/url", {"url": url})

    async def run(self, script: str, *arguments: Any) -> Any:
        """Return the value of a script, or of the promise that it returns."""
        return await self._command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    async def devtools(self, name: str, **parameters: Any) -> Any:
        return await self._command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    async def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        found: str = await self.run("return document.querySelector(arguments[0]).innerText", selector)
        return found

    async def click(self, selector: str, *, when_ready: bool = True) -> None:
        """Click an element. With `when_ready`, first wait until it is visible and enabled."""
        if when_ready:
            await self.until(READY, selector)
        await self._command("POST", f"/element/{await self._find(selector)}/click", {})

    async def hover(self, selector: str) -> None:
        """Move the pointer to the middle of an element."""
        element = {_ELEMENT: await self._find(selector)}
        move = {"type": "pointerMove", "origin": element, "x": 0, "y": 0}
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        await self._command("POST", "/actions", {"actions": [pointer]})

    async def type(self, selector: str, text: str) -> None:
        await self._command("POST", f"/element/{await self._find(selector)}/value", {"text": text})

    async def press(self, *keys: str) -> None:
        """Press the last key while the keys before it are held down, in the element that has the focus."""
        actions = [{"type": "keyDown", "value": key} for key in keys]
        actions += [{"type": "keyUp", "value": key} for key in reversed(keys)]
        await self._command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    async def until(self, condition: str, *arguments: Any) -> None:
        """Wait until a JavaScript expression is true."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self.run(f"return Boolean({condition})", *arguments):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            seen = await self.run("return document.body.innerText")
            raise AssertionError(f"the condition did not become true: {condition} {arguments}\n{seen}") from None

    async def until_text(self, selector: str, text: str) -> None:
        await self.until("document.querySelector(arguments[0])?.innerText.includes(arguments[1])", selector, text)

    async def screen(self, width: int, height: int, scale: float = 1) -> None:
        """Set the size of the window in CSS pixels, and the number of device pixels per CSS pixel."""
        await self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    async def scheme(self, name: str) -> None:
        """Set the color scheme: "light" or "dark"."""
        features = [
            {"name": "prefers-color-scheme", "value": name},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        await self.devtools("Emulation.setEmulatedMedia", features=features)

    async def hide(self) -> None:
        """Minimize the window."""
        await self._command("POST", "/window/minimize", {})

    async def show(self) -> None:
        await self._command("POST", "/window/rect", {"width": 1280, "height": 900})

    async def complaints(self) -> list[str]:
        """Return the console messages since the last call, including violations of the content security policy."""
        return [entry["message"] for entry in await self._command("POST", "/se/log", {"type": "browser"})]

    async def picture(self, name: str) -> None:
        """Save the whole page as a PNG for a reviewer, if RELAY_SCREENSHOTS names a directory."""
        if directory := os.environ.get("RELAY_SCREENSHOTS"):
            shot = await self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
            Path(directory, f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    async def _find(self, selector: str) -> str:
        found = await self._command("POST", "/element", {"using": "css selector", "value": selector})
        element: str = found[_ELEMENT]
        return element

    async def _command(self, method: str, path: str, data: Any = None) -> Any:
        return await asyncio.to_thread(_ask, method, self._base + path, data)


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Browser]:
    """Run a browser with a new profile and further flags. Raises LookupError if it is not installed."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in PROGRAMS]
    if None in found:
        raise LookupError("needs Chromium and its driver: apt-get install chromium chromium-driver")
    browser, driver = found
    options = {"binary": browser, "args": [*_FLAGS, *flags, f"--user-data-dir={profile}"]}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    with subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            base = f"http://127.0.0.1:{_port(process)}"
            session = _ask("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            try:
                yield Browser(base, session)
            finally:
                _ask("DELETE", f"{base}/session/{session}", None)
        finally:
            process.terminate()


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if started := re.search(r"started successfully on port (\d+)", line):
            return int(started[1])
    raise AssertionError("chromedriver did not start")


def _ask(method: str, url: str, data: Any) -> Any:
    """Send one WebDriver command, and return its value."""
    body = None if data is None else json.dumps(data).encode()
    request = Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)["value"]
    except HTTPError as error:
        with error:
            reported = json.load(error)["value"]
        raise AssertionError(f"{url}: {reported['error']}: {reported['message'].splitlines()[0]}") from None
