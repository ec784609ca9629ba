"""A real browser without a screen: Chromium, spoken to in its DevTools protocol over two pipes.

Nothing but the browser itself is needed. Where there is none, `find` says so, and the test is left out.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Where the browser looks for its pipes."""

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find() -> str:
    """The browser's program; the test is skipped where there is none."""
    for name in NAMES:
        if program := shutil.which(name):
            return program
    pytest.skip("needs a browser: " + ", ".join(NAMES))


class Tab:
    """A page in the browser, and all that was heard of it: requests, messages of the console, errors."""

    def __init__(self, browser: Browser, session: str):
        self.browser, self.session = browser, session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def look(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """As on a screen of this width, in a light or a dark theme."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Goes to an address, and waits until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> None:
        """Waits until an expression is true in the page."""
        deadline = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.value('document.body.innerText')}"
            self.browser.listen(0.2)

    def overflow(self) -> int:
        """Pixels that the page is wider than the screen."""
        return self.value("document.documentElement.scrollWidth - window.innerWidth")

    def picture(self, file: Path) -> Path:
        """A screenshot of the whole page."""
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(told["data"]))
        return file

    def heard(self, *methods: str) -> list[dict[str, Any]]:
        """The events of these kinds so far."""
        of_tab = (told for told in self.browser.events if told.get("sessionId") == self.session)
        return [told["params"] for told in of_tab if told["method"] in methods]

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for."""
        return [told["request"]["url"] for told in self.heard("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[Any]:
        """What the console shows: messages of the page, its errors, and what the browser says of it."""
        return self.heard("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


class Browser:
    """The browser's end of the two pipes: JSON, each message ended by a zero byte."""

    def __init__(self, reading: int, writing: int):
        self.reading, self.writing = reading, writing
        self.events: list[dict[str, Any]] = []
        self.answers: dict[int, dict[str, Any]] = {}
        self.number, self.rest = 0, b""

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        asked: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        data = json.dumps(asked | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self.writing, data) :]
        deadline = time.monotonic() + 120
        while self.number not in self.answers:
            assert time.monotonic() < deadline, f"no answer to {method}"
            self.listen(1)
        told = self.answers.pop(self.number)
        assert "error" not in told, (method, told)
        return told["result"]

    def listen(self, seconds: float) -> None:
        """Takes what the browser says within a time."""
        ready, _, _ = select.select([self.reading], [], [], seconds)
        if not ready:
            return
        data = os.read(self.reading, 1 << 20)
        assert data, "the browser has ended"
        *whole, self.rest = (self.rest + data).split(b"\0")
        for message in map(json.loads, whole):
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)

    def tab(self) -> Tab:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Within: a browser that keeps all that it keeps in `folder`, and ends afterwards."""
    program = find()
    to_browser, from_browser = os.pipe(), os.pipe()
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-default-browser-check",
        "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}",
    ]  # fmt: skip
    ends = (to_browser[0], from_browser[1])
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", AS_3_AND_4, *map(str, ends), program, *options], pass_fds=ends,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Browser(from_browser[0], to_browser[1])
    finally:
        os.close(to_browser[1])
        os.close(from_browser[0])
        process.terminate()
        process.wait(30)
