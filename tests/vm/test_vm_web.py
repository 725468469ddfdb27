"""The web console of a real VM in a real browser: its screen, its terminal, and who gets in."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from browsers import Browser, Page, browser
from machines import text_of
from vm_lab import HEADLESS, Lab, leaving_nobody, until

SHOWN = "document.querySelector('.xterm-rows').innerText.replaceAll('\\u00a0', ' ')"
COMPARED = """(async (png) => {
    const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([bytes]));
    const surface = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
    surface.drawImage(picture, 0, 0);
    const canvas = document.querySelector("#screen canvas");
    const shown = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const wanted = surface.getImageData(0, 0, picture.width, picture.height).data;
    let lit = 0;
    for (let place = 0; place < wanted.length; place += 4) {
        lit += wanted[place] + wanted[place + 1] + wanted[place + 2] > 0;
    }
    return [shown.length === wanted.length && shown.every((value, place) => value === wanted[place]), lit];
})"""


def link_in(text: str) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", text)
    assert found, text
    return found[0]


FORWARD = """
import asyncio, sys
async def copied(source, target):
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()
async def joined(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    await asyncio.gather(copied(reader, far_writer), copied(far_reader, writer))
async def main():
    server = await asyncio.start_server(joined, "127.0.0.1", int(sys.argv[2]))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def forwarded(lab: Lab, link: str, port: int = 0) -> Generator[int]:
    """A port that leads to that of the link, as SSH forwards one, until the block ends; then it breaks."""
    words = lab.network.words(sys.executable, "-c", FORWARD, str(port_in(link)), str(port))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def port_in(link: str) -> int:
    return int(link.partition("/?")[0].rpartition(":")[2])


def entered(chromium: Browser, link: str) -> Page:
    page = chromium.page()
    page.go(link)
    page.wait("document.querySelector('#state')?.dataset.state === 'running'")
    return page


def screen_is_the_guests(lab: Lab, page: Page, tmp_path: Path) -> int:
    """How many pixels are lit, once the page's canvas is what `tart screenshot` sees."""
    lab.done("screenshot", "mini", str(tmp_path / "screen.png"))
    png = base64.b64encode((tmp_path / "screen.png").read_bytes()).decode()
    same, lit = page.value(f"{COMPARED}({json.dumps(png)})")
    return int(lit) if same else -1


def test_a_guest_is_seen_and_typed_to_in_a_browser(tmp_path: Path, suspended: Lab) -> None:
    with (
        leaving_nobody(),
        suspended.running(),
        ExitStack() as held,
        browser(tmp_path / "profile", suspended.network.words) as chromium,
    ):
        link = link_in(suspended.done("web", "mini"))
        assert text_of(suspended.vm().run_log_path).count("token") == 0, "a key is not noted"
        page = entered(chromium, link)

        other = chromium.page()
        other.go(link)
        other.wait("document.body?.innerText.includes('used already')")
        assert "tart web mini" in other.value("document.body.innerText")
        fresh = link_in(suspended.done("web", "mini"))
        with forwarded(suspended, link) as port:
            other = entered(chromium, fresh.replace(f":{port_in(link)}/", f":{port}/"))
        other.wait("document.querySelector('#state').dataset.state === 'lost'")
        held.enter_context(forwarded(suspended, link, port))
        other.wait("document.querySelector('#state').dataset.state === 'running'")

        page.click("#terminal .surface")
        page.type("\rprintf '\\033[?25l\\n\\n%s\\n' 'seen by both' > /dev/tty1; echo $((6*7))\r")
        page.wait(f"{SHOWN}.includes('\\n42')")
        other.wait(f"{SHOWN}.includes('\\n42')")
        until(lambda: screen_is_the_guests(suspended, page, tmp_path) > 300, "the guest's text on both screens")
        until(lambda: screen_is_the_guests(suspended, other, tmp_path) > 300, "the guest's text in the other tab")

        page.type(
            "modprobe virtio_input; sleep 99 < /dev/tty1 & printf '\\033c\\033[?25l' > /dev/tty1; echo $((40+3))\r"
        )
        page.wait(f"{SHOWN}.includes('\\n43')")
        until(lambda: screen_is_the_guests(suspended, page, tmp_path) == 0, "an empty screen")
        page.click("#screen .surface")
        page.type("tartlet")  # into the guest's keyboard: Linux shows on the screen what it hears
        until(lambda: screen_is_the_guests(suspended, page, tmp_path) > 100, "the letters on the guest's screen")
        page.press("Home", control=True, alt=True)
        assert page.value("document.activeElement.value") == "both", "the way out for who has no pointer"

        suspended.done("suspend", "mini")
        assert "suspended" in suspended.done("wait", "mini"), "a machine with pages open can be saved"
        for tab in (page, other):
            tab.wait("document.querySelector('#state').dataset.state === 'stopped'")
            assert "tart run mini --web" in tab.value("document.querySelector('#notice').innerText")
    refused = suspended.tart("web", "mini")
    assert (refused.code, refused.err.splitlines()[0]) == (2, 'VM "mini" is not running')


def test_the_screens_keyboard_is_the_guests_and_a_restart_changes_nothing(tmp_path: Path, stopped: Lab) -> None:
    """The firmware of a VM with an empty disk ends in its shell, which shows on both what is typed on either."""
    stopped.done("create", "--linux", "empty")
    stopped.done("set", "empty", "--cpu", "1", "--memory", "256", "--display", "800x600")
    with leaving_nobody(), stopped.started("run", "empty", "--web") as started:
        assert started.stdout is not None
        link = link_in(started.stdout.readline())
        with browser(tmp_path / "profile", stopped.network.words) as chromium:
            page = entered(chromium, link)
            page.wait(f"{SHOWN}.includes('any other key to continue')", within=60)
            page.click("#screen .surface")
            page.type(" ")
            page.wait(f"{SHOWN}.includes('Shell>')")
            page.type("reset\r")
            page.wait(f"!{SHOWN}.includes('Shell>')")
            page.wait(f"{SHOWN}.includes('any other key to continue')", within=60)
            assert page.value("document.querySelector('#state').dataset.state") == "running"
        stopped.done("stop", "empty")


ASK = """
import http.cookiejar, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
page = opener.open(sys.argv[1], timeout=10).read().decode()
path = page.partition("url=")[2].partition('"')[0]
print(opener.open(sys.argv[1].partition("?")[0][:-1] + path + "guest", timeout=10).read().decode())
"""


def guest_behind(lab: Lab, link: str) -> dict[str, object]:
    """What the page is told of its guest, asked by a program of this user."""
    told: dict[str, object] = json.loads(lab.network.run(sys.executable, "-c", ASK, link, timeout=30).stdout)
    return told


def test_no_graphics_means_the_terminal_alone(stopped: Lab) -> None:
    said = stopped.done("run", "mini", "--web", *HEADLESS, "--detach")
    assert said.startswith("The web console is at http://127.0.0.1:")
    told = guest_behind(stopped, link_in(said))
    assert told == {"name": "mini", "screen": False, "clipboard": False, "follows": False}
    refused = stopped.tart("run", "mini", "--web-port", "8080")
    assert (refused.code, "--web-port needs --web" in refused.err) == (64, True)


def test_a_desktop_gets_a_link_of_its_own(tmp_path: Path, stopped: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users can read the words of programs, so the link in them is for this user's programs."""
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1 end" > {tmp_path}/told\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.delenv("CI", raising=False)
    said = stopped.done("run", "mini", "--web", "--detach")
    assert re.fullmatch(r"Opening http://127\.0\.0\.1:\d+/\?token=\S+\.\.\.\n", said)
    until(lambda: "end" in text_of(tmp_path / "told"), "the browser to be started")
    opened = text_of(tmp_path / "told").split()[0]
    assert opened not in said
    assert guest_behind(stopped, opened)["screen"] is True
    port = str(port_in(opened))
    stopped.done("create", "--linux", "empty")
    refused = stopped.tart("run", "empty", "--web", "--web-port", port)
    assert (refused.code, refused.err.splitlines()[0]) == (
        1,
        f"port {port} of 127.0.0.1 cannot be used: Address already in use",
    )
