"""The web console of one VM: a page with its screen and its serial terminal, on the host's loopback address."""

from __future__ import annotations

import html
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import anyio
from aiohttp import web

from tartlet.console.hub import SerialConsole
from tartlet.errors import UserError
from tartlet.web import assets, sockets
from tartlet.web.gate import Gate, Refusal
from tartlet.web.guarded import only_from_here, with_rules
from tartlet.web.peer import user_at

HOST = "127.0.0.1"

_COOKIE = "tart"
_LONGEST_MESSAGE = 1 << 20
_PATIENCE = 1.0
"""Seconds a page gets to hang up when the VM has ended."""


class PortRefused(UserError):
    """The wanted port cannot be had."""

    def __init__(self, port: int, cause: OSError) -> None:
        super().__init__(
            f"port {port} of {HOST} cannot be used: {os.strerror(cause.errno or 0)}",
            "choose another --web-port, or leave it out to get a free one",
        )
        self.port = port


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What the page shows."""

    name: str
    serial: SerialConsole
    screen: Callable[[], Awaitable[socket.socket]] | None
    """Gives a non-blocking connection to a VNC server that asks for no password; None for a page without a screen.

    Raises UserError.
    """
    clipboard: bool = False
    """Whether the guest shares its clipboard with whoever sees its screen."""
    follows: bool = False
    """Whether the guest's resolution is to follow the size of the page."""


@dataclass(frozen=True, slots=True)
class WebServer:
    """A page that is served."""

    port: int
    _gate: Gate

    def link(self, *, only: int | None = None) -> str:
        """An address that opens the page once, within an hour; with `only` for programs of this user (and root's)."""
        return f"http://{HOST}:{self.port}/?token={self._gate.new_token(only=only)}"


@asynccontextmanager
async def serving(guest: Guest, port: int | None = None) -> AsyncGenerator[WebServer]:
    """Serve the page for the length of the block, on a free port unless one is given.

    Raises AssetsMissing, PortRefused.
    """
    gate = Gate()
    runner = web.AppRunner(
        _Pages(guest, gate).application(), access_log=None, handle_signals=False, shutdown_timeout=_PATIENCE
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port or 0).start()
        except OSError as exc:
            raise PortRefused(port or 0, exc) from exc
        yield WebServer(int(runner.addresses[0][1]), gate)
    finally:
        await runner.cleanup()


class _Pages:
    """What is answered to which address."""

    def __init__(self, guest: Guest, gate: Gate) -> None:
        self._guest, self._gate = guest, gate
        self._files = assets.found()
        self._open: set[web.WebSocketResponse] = set()

    def application(self) -> web.Application:
        """The addresses. All but the first want a session."""
        app = web.Application(middlewares=[only_from_here, self._only_sessions])
        app.router.add_get("/", self._entrance, allow_head=False)  # whoever only looks at a link has not followed it
        app.router.add_get("/{session}/", self._page)
        app.router.add_get("/{session}/guest", self._about)
        app.router.add_get("/{session}/screen", self._screen, allow_head=False)
        app.router.add_get("/{session}/terminal", self._terminal, allow_head=False)
        app.router.add_get("/{session}/{file:.+}", self._file)
        app.on_response_prepare.append(with_rules)
        app.on_shutdown.append(self._hang_up)
        return app

    @web.middleware
    async def _only_sessions(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        path = request.match_info.get("session")
        if path is not None and not self._gate.admits(path, request.cookies.get(_COOKIE)):
            return self._refused("This browser has no session here, or its session has ended.")
        return await handler(request)

    async def _entrance(self, request: web.Request) -> web.StreamResponse:
        token = request.query.get("token")
        if token is None:
            return self._refused("This page opens by a link that works once.")
        entered = self._gate.enter(token, lambda: _user_behind(request))
        if entered is Refusal.SOMEBODY_ELSE:
            return self._refused("This link is for another user of this machine.")
        if entered is Refusal.USED:
            return self._refused("This link has been used already, or is too old.")
        # Not a redirection: the browser would count it as the doing of the link's site, and not send the cookie.
        response = _html(assets.page("enter.html").replace("{path}", entered.path))
        response.set_cookie(_COOKIE, entered.cookie, path=f"/{entered.path}/", httponly=True, samesite="Strict")
        return response

    def _refused(self, why: str) -> web.Response:
        page = assets.page("refused.html").replace("{why}", why).replace("{name}", html.escape(self._guest.name))
        return _html(page, status=403)

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return _html(assets.page("index.html").replace("{name}", html.escape(self._guest.name)))

    async def _about(self, _: web.Request) -> web.StreamResponse:
        guest = self._guest
        told = {"name": guest.name, "screen": guest.screen is not None}
        return web.json_response({**told, "clipboard": guest.clipboard, "follows": guest.follows})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._files.get(request.match_info["file"])
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": f"{assets.KINDS[path.suffix]}; charset=utf-8"})

    async def _screen(self, request: web.Request) -> web.StreamResponse:
        if self._guest.screen is None:
            raise web.HTTPNotFound
        try:
            sock = await self._guest.screen()
        except UserError as exc:
            raise web.HTTPServiceUnavailable(text=f"{exc}\n") from exc
        with sock:
            return await self._joined(request, lambda ws: sockets.screen(ws, sock))

    async def _terminal(self, request: web.Request) -> web.StreamResponse:
        return await self._joined(request, lambda ws: sockets.terminal(ws, self._guest.serial))

    async def _joined(
        self, request: web.Request, join: Callable[[web.WebSocketResponse], Awaitable[None]]
    ) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(timeout=_PATIENCE, heartbeat=30, compress=False, max_msg_size=_LONGEST_MESSAGE)
        await ws.prepare(request)
        self._open.add(ws)
        try:
            await join(ws)
        finally:
            self._open.discard(ws)
        return ws

    async def _hang_up(self, _: web.Application) -> None:
        """Tell the pages that the VM has ended. One that reads nothing, like that of a sleeping laptop, is not told."""
        with anyio.move_on_after(_PATIENCE):
            async with anyio.create_task_group() as tasks:
                for ws in self._open:
                    tasks.start_soon(partial(ws.close, code=sockets.ENDED))


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, content_type="text/html", status=status)


def _user_behind(request: web.Request) -> int | None:
    """The user whose program sends the request, if it is one of this machine."""
    transport = request.transport
    if transport is None:
        return None
    theirs, ours = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return user_at(cast("tuple[str, int]", theirs), cast("tuple[str, int]", ours))
