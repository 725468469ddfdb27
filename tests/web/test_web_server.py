"""The page's server, asked by a client that is no browser: who gets in, and what is kept from running ahead."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import pytest

from tartlet.console.hub import SerialConsole
from tartlet.hypervisor.qmp import MonitorUnreachable
from tartlet.web import assets, sockets
from tartlet.web.server import Guest, PortRefused, WebServer, serving

pytestmark = pytest.mark.anyio

KINDS = {
    "": "text/html",
    "guest": "application/json",
    "page.js": "text/javascript",
    "static/novnc/core/rfb.js": "text/javascript",
    "static/xterm/lib/xterm.mjs": "text/javascript",
    "static/xterm/css/xterm.css": "text/css",
}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server whose guest is this test."""

    server: WebServer
    serial: socket.socket
    """The guest's end of its serial port."""
    screen: socket.socket
    """QEMU's end of a screen."""
    client: aiohttp.ClientSession

    async def entered(self) -> str:
        """The address of a new session."""
        async with self.client.get(self.server.link()) as answer:
            assert answer.status == 200
            cookie = answer.cookies["tart"]
            assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
            assert f"url={cookie['path']}" in await answer.text()
            assert "no-store" in answer.headers["Cache-Control"]
        return f"http://127.0.0.1:{self.server.port}{cookie['path']}"


@asynccontextmanager
async def served(*, screens: int = 1) -> AsyncGenerator[Served]:
    """A page whose screen can be asked for `screens` times; without any it has none."""
    ours, serial = socket.socketpair()
    pairs = [socket.socketpair() for _ in range(screens)]
    left = [sock for sock, _ in pairs]
    console = SerialConsole(ours)

    async def connected() -> socket.socket:
        if not left:
            raise MonitorUnreachable("it is gone")
        sock = left.pop(0)
        sock.setblocking(False)
        return sock

    guest = Guest(name="<mini>", serial=console, screen=connected if pairs else None)
    with ExitStack() as held:
        for sock in (ours, serial, *(end for pair in pairs for end in pair)):
            held.callback(sock.close)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(console.pump)
            async with serving(guest) as web, aiohttp.ClientSession(cookie_jar=_jar()) as client:
                yield Served(server=web, serial=serial, screen=pairs[0][1] if pairs else serial, client=client)
            tasks.cancel_scope.cancel()


def _jar() -> aiohttp.CookieJar:
    return aiohttp.CookieJar(unsafe=True)  # one that keeps cookies of addresses, as browsers do


async def status(client: aiohttp.ClientSession, url: str, **headers: str) -> int:
    async with client.get(url, headers=headers) as answer:
        return answer.status


async def test_a_link_is_for_one_browser() -> None:
    async with served() as ours, aiohttp.ClientSession(cookie_jar=_jar()) as other:
        link = ours.server.link()
        async with other.head(link) as looked:
            assert looked.status == 405, "a program that only looks does not spend the link"
        assert await status(ours.client, link) == 200
        for client in (ours.client, other):
            async with client.get(link) as refused:
                text = await refused.text()
                assert refused.status == 403
                assert "used already" in text
                assert "tart web &lt;mini&gt;" in text
        home = await ours.entered()
        for name, kind in KINDS.items():
            async with ours.client.get(home + name) as answer:
                assert (answer.status, answer.content_type) == (200, kind), name
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert await status(other, home + name) == 403, name
        assert await status(ours.client, home + "static/../server.py") == 404
        assert await status(ours.client, home + "static/README.txt") == 404
        assert await status(ours.client, ours.server.link(only=0)) == 200, "this user's program, or root's"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.1@evil", ""]
)
async def test_a_name_of_somebody_else_is_refused(host: str) -> None:
    async with served() as ours:
        home = await ours.entered()
        for url in (home, home + "guest", ours.server.link()):
            assert await status(ours.client, url, Host=host.format(port=ours.server.port)) in (400, 421)
        assert await status(ours.client, home, Host="127.0.0.1:9") == 200, "a forwarded port"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9", "https://127.0.0.1:{port}", ""]
)
async def test_another_sites_page_opens_no_socket(origin: str) -> None:
    async with served() as ours:
        home = await ours.entered()
        headers = {"Origin": origin.format(port=ours.server.port)} if origin else {}
        for name in ("terminal", "screen"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await ours.client.ws_connect(home + name, headers=headers)
            assert refused.value.status == 403
        if origin:
            assert await status(ours.client, home + "guest", **headers) == 403


@asynccontextmanager
async def stream(ours: Served, name: str) -> AsyncGenerator[aiohttp.ClientWebSocketResponse]:
    home = await ours.entered()
    origin = f"http://127.0.0.1:{ours.server.port}"
    async with ours.client.ws_connect(home + name, origin=origin, max_msg_size=0) as ws:
        yield ws


async def test_the_terminal_is_the_serial_port() -> None:
    async with served() as ours, stream(ours, "terminal") as one, stream(ours, "terminal") as other:
        ours.serial.sendall(b"login: ")
        assert await one.receive_bytes(timeout=20) == b"login: "
        assert await other.receive_bytes(timeout=20) == b"login: "
        await one.send_bytes(b"root\r")
        ours.serial.setblocking(False)
        await anyio.wait_readable(ours.serial)
        assert ours.serial.recv(100) == b"root\r"
        await other.send_str("seven")
        assert (await other.receive(timeout=20)).type is aiohttp.WSMsgType.CLOSE, "nonsense ends it"
        ours.serial.close()
        assert (await one.receive(timeout=20)).data == sockets.ENDED, "the page is told that the VM has ended"


async def test_a_page_that_shows_nothing_is_sent_little() -> None:
    async with served() as ours, stream(ours, "terminal") as ws:
        ours.serial.settimeout(20)
        await anyio.to_thread.run_sync(ours.serial.sendall, bytes(64 << 20))
        unseen = await _until_silence(ws)
        assert 512 << 10 <= unseen < 1 << 20
        await ws.send_str(str(unseen))
        more = await ws.receive_bytes(timeout=20)
        assert more, "it goes on when the page has caught up"


async def _until_silence(ws: aiohttp.ClientWebSocketResponse) -> int:
    total = 0
    while True:
        try:
            total += len(await ws.receive_bytes(timeout=2))
        except TimeoutError:
            return total


async def test_the_screen_is_joined_to_qemu_and_waits_for_a_slow_page() -> None:
    async with served() as ours, stream(ours, "screen") as ws:
        ours.screen.sendall(b"RFB 003.008\n")
        assert await ws.receive_bytes(timeout=20) == b"RFB 003.008\n"
        await ws.send_bytes(b"RFB 003.008\n")
        ours.screen.setblocking(False)
        await anyio.wait_readable(ours.screen)
        assert ours.screen.recv(100) == b"RFB 003.008\n"
        assert await _filled(ours.screen) < 64 << 20, "the client of this test reads nothing"
        ours.screen.close()
        while (message := await ws.receive(timeout=20)).type is aiohttp.WSMsgType.BINARY:
            pass
        assert message.type is aiohttp.WSMsgType.CLOSE


async def test_a_page_without_a_screen_and_one_whose_qemu_is_gone() -> None:
    async with served(screens=0) as ours:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with stream(ours, "screen"):
                pass
        assert refused.value.status == 404
    async with served() as ours, stream(ours, "screen"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with stream(ours, "screen"):
                pass
        assert refused.value.status == 503


async def test_pages_are_told_of_the_end_and_the_port_is_free_again() -> None:
    ours, serial = socket.socketpair()
    ended = list[int]()
    with ours, serial:
        guest = Guest(name="mini", serial=SerialConsole(ours), screen=None)
        async with aiohttp.ClientSession(cookie_jar=_jar()) as client, anyio.create_task_group() as pages:
            async with serving(guest) as web:
                with pytest.raises(PortRefused, match="in use"):
                    async with serving(guest, web.port):
                        pass
                async with client.get(web.link()) as answer:
                    home = f"http://127.0.0.1:{web.port}{answer.cookies['tart']['path']}"
                for _ in range(3):
                    page = await client.ws_connect(home + "terminal", origin=f"http://127.0.0.1:{web.port}")
                    pages.start_soon(_told, page, ended)
            async with serving(guest, web.port) as again:
                assert again.port == web.port
                assert await status(client, home) == 403, "the sessions have ended with the server"
    assert ended == [sockets.ENDED] * 3


async def test_a_page_that_reads_nothing_does_not_hold_the_end_up() -> None:
    """A laptop asleep at the other end of a forwarded port is still connected."""
    ours, serial = socket.socketpair()
    mine, qemus = socket.socketpair()
    mine.setblocking(False)
    qemus.setblocking(False)

    async def screen() -> socket.socket:
        return mine

    with ours, serial, mine, qemus:
        guest = Guest(name="mini", serial=SerialConsole(ours), screen=screen)
        async with aiohttp.ClientSession(cookie_jar=_jar()) as client:
            with anyio.fail_after(20):
                async with serving(guest) as web:
                    async with client.get(web.link()) as answer:
                        home = f"http://127.0.0.1:{web.port}{answer.cookies['tart']['path']}"
                    page = await client.ws_connect(home + "screen", origin=f"http://127.0.0.1:{web.port}")
                    await _filled(qemus)
            assert not page.closed


async def _filled(sock: socket.socket) -> int:
    """Bytes that went into a non-blocking socket until nobody took any more."""
    sent = 0
    while sent < 256 << 20:
        with anyio.move_on_after(1) as waiting:
            await anyio.wait_writable(sock)
        if waiting.cancelled_caught:
            break
        sent += sock.send(bytes(1 << 20))
    return sent


async def _told(page: aiohttp.ClientWebSocketResponse, ended: list[int]) -> None:
    ended.append((await page.receive()).data)


async def test_an_installation_without_the_parts_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "_HERE", tmp_path)
    with pytest.raises(assets.AssetsMissing) as missing:
        assets.found()
    assert "scripts/web_assets.py" in (missing.value.hint or "")
