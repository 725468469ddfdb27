"""A real browser without a window: Chromium, told what to do by the DevTools protocol over a pair of pipes.

Protocol: https://chromedevtools.github.io/devtools-protocol/ (messages of `--remote-debugging-pipe` end with a zero).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

_WORDS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--hide-scrollbars",
)  # fmt: skip
_SECONDS = 30.0
_KEYS = {"\r": ("Enter", 13), "\t": ("Tab", 9)}


class Browser:
    """One browser with a profile of its own."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out = into, out
        self._held = b""
        self._number = 0

    def page(self, *, width: int = 1280, height: int = 720) -> Page:
        """A new tab, empty."""
        target = self.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.ask("Emulation.setDeviceMetricsOverride", size)
        page.ask("Emulation.setFocusEmulationEnabled", {"enabled": True})
        return page

    def ask(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._into, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while (answer := self._heard(deadline)).get("id") != self._number:
            pass  # an event
        assert "error" not in answer, (method, answer["error"])
        return cast("dict[str, Any]", answer["result"])

    def _heard(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._out], [], [], deadline - time.monotonic())
            piece = os.read(self._out, 1 << 20) if ready else b""
            assert piece, "the browser does not answer"
            self._held += piece
        message, _, self._held = self._held.partition(b"\0")
        return cast("dict[str, Any]", json.loads(message))


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def ask(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """One command of the tab and its answer."""
        return self._browser.ask(method, parameters or {}, self._session)

    def go(self, url: str) -> None:
        """Open an address. Whether it has been loaded is for `wait` to tell."""
        self.ask("Page.navigate", {"url": url})

    def value(self, expression: str) -> Any:  # noqa: ANN401 - whatever JavaScript has
        """What a JavaScript expression is, waited for when it is a promise."""
        told = self.ask("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, expression: str, within: float = 20) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + within
        while not self.value(f"(async () => !!(await ({expression})))()"):
            assert time.monotonic() < deadline, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Press and release the key of each letter."""
        for letter in text:
            key, code = _KEYS.get(letter, (letter, ord(letter.upper()) if letter.isalnum() else 0))
            event = {"key": key, "windowsVirtualKeyCode": code, "text": letter}
            self.ask("Input.dispatchKeyEvent", {"type": "keyDown", **event})
            self.ask("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def press(self, key: str, *, control: bool = False, alt: bool = False) -> None:
        """Press and release a key that has a name, such as `Home`."""
        event = {"key": key, "code": key, "modifiers": 2 * control + alt}
        self.ask("Input.dispatchKeyEvent", {"type": "rawKeyDown", **event})
        self.ask("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        box = self.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({_one(selector)}.getBoundingClientRect())")
        event = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", {"type": "mousePressed", **event})
        self.ask("Input.dispatchMouseEvent", {"type": "mouseReleased", **event})

    def picture(self) -> bytes:
        """The tab as it looks, as a PNG file."""
        return base64.b64decode(self.ask("Page.captureScreenshot", {"format": "png"})["data"])

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        self.ask("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def _one(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@contextmanager
def browser(profile: Path, inside: Callable[..., Sequence[str]]) -> Generator[Browser]:
    """Chromium for the length of the block; `inside` makes words that run in a network of the test's own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    words = [program, *_WORDS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
    theirs_in, into = os.pipe()
    out, theirs_out = os.pipe()
    joined = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        inside("bash", "-c", joined, "-", *words),
        pass_fds=[theirs_in, theirs_out],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        started = Browser(into, out)
        yield started
        started.ask("Browser.close", {})
        process.wait(_SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(into)
        os.close(out)
