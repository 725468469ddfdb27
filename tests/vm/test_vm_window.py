"""A VM in a window of a real X server: it opens, and closing it ends the VM."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from Xlib import X
from Xlib.display import Display
from Xlib.protocol.event import ClientMessage
from Xlib.xobject.drawable import Window

from vm_lab import Lab, leaving_nobody, until

pytestmark = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")


@contextmanager
def screen() -> Generator[str]:
    """The name of a display for the length of the block; it is reached by a Unix socket only."""
    told, tells = os.pipe()
    words = ("Xvfb", "-displayfd", str(tells), "-nolisten", "tcp", "-screen", "0", "1024x768x24")
    with subprocess.Popen(words, pass_fds=[tells], stderr=subprocess.DEVNULL) as server:
        os.close(tells)
        try:
            with os.fdopen(told) as number:
                yield f":{number.readline().strip()}"
        finally:
            server.terminate()


def below(window: Window) -> Iterator[Window]:
    for child in window.query_tree().children:
        yield child
        yield from below(child)


def windows(display: Display, title: str) -> list[Window]:
    """The open windows of which the title names the VM."""
    return [window for window in below(display.screen().root) if title in str(window.get_wm_name())]


def close(display: Display, window: Window) -> None:
    """Press the close button: what a window manager sends (ICCCM, WM_DELETE_WINDOW)."""
    protocols, delete = (display.intern_atom(name) for name in ("WM_PROTOCOLS", "WM_DELETE_WINDOW"))
    window.send_event(ClientMessage(window=window, client_type=protocols, data=(32, [delete, X.CurrentTime, 0, 0, 0])))
    display.flush()


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Generator[Display]:
    with screen() as name:
        monkeypatch.setenv("DISPLAY", name)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        opened = Display(name)
        try:
            yield opened
        finally:
            opened.close()


def is_up(lab: Lab) -> bool:
    return lab.tart("exec", "mini", "true").code == 0


def test_the_close_button_stops_the_vm(stopped: Lab, display: Display) -> None:
    with leaving_nobody(), stopped.started("run", "mini", "--no-audio") as run:
        until(lambda: is_up(stopped), "a guest that answers", within=60)
        close(display, windows(display, "mini")[0])
        out, _ = run.communicate(timeout=30)
        assert run.returncode == 0, out
    assert stopped.state() == "stopped"
    assert stopped.done("wait", "mini").startswith("stopped by user")


def test_a_vm_that_is_to_be_suspended_survives_its_close_button(stopped: Lab, display: Display) -> None:
    with leaving_nobody(), stopped.started("run", "mini", "--no-audio", "--suspendable") as run:
        until(lambda: is_up(stopped), "a guest that answers", within=60)
        close(display, windows(display, "mini")[0])
        stopped.done("suspend", "mini")
        assert run.wait(30) == 0
    assert stopped.state() == "suspended"
