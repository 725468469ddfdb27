"""The web console of a running VM: served from the moment somebody asks for it until the VM ends."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from tartlet.console.hub import SerialConsole
from tartlet.console.opener import has_desktop, open_url
from tartlet.errors import UserError
from tartlet.hypervisor.qmp import Monitor
from tartlet.vm.planning.plan import Plan
from tartlet.vm.running.run_log import RunLog

if TYPE_CHECKING:
    from tartlet.web.server import WebServer


class WebConsole:
    """The page of one VM."""

    def __init__(self, plan: Plan, monitor: Monitor, serial: SerialConsole) -> None:
        self._plan, self._monitor, self._serial = plan, monitor, serial
        self._held = AsyncExitStack()
        self._starting = anyio.Lock()
        self._server: WebServer | None = None

    @asynccontextmanager
    async def offered(self) -> AsyncGenerator[None]:
        """Let the page be asked for during the block; it is served until the block's end."""
        async with self._held:
            yield

    async def link(self, *, to_open: bool = False) -> str:
        """An address that opens the page once, within an hour. Raises AssetsMissing, PortRefused.

        One that is `to_open` will be in the words of a program, for all users to see, and works for this user alone.
        """
        async with self._starting:
            self._server = self._server or await self._started()
        only = os.getuid() if to_open and sys.platform == "linux" else None
        return self._server.link(only=only)

    async def _started(self) -> WebServer:
        from tartlet.web.server import Guest, serving  # brings an HTTP server, which few runs need

        options, config = self._plan.options, self._plan.config
        guest = Guest(
            name=self._plan.machine.name,
            serial=self._serial,
            screen=None if options.web and options.no_graphics else self._screen,
            clipboard=self._plan.clipboard,
            follows=bool(config.display_refit),
        )
        return await self._held.enter_async_context(serving(guest, options.web_port))

    async def _screen(self) -> socket.socket:
        """A new connection to QEMU's VNC server. Raises CommandFailed, MonitorUnreachable."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                await self._monitor.add_vnc_client(theirs.fileno())
                ours.setblocking(False)
            except BaseException:
                ours.close()
                raise
        return ours


async def opened(page: WebConsole, log: RunLog, *, on_desktop: bool) -> None:
    """Serve the page, tell its address and hand it to the desktop. The address is a key: it is not noted.

    Raises AssetsMissing, PortRefused.
    """
    link = await page.link()
    if not (on_desktop and has_desktop(os.environ)):
        log.tell(f"The web console is at {link}")
        return
    log.tell(f"Opening {link}...")
    try:
        await open_url(await page.link(to_open=True))
    except UserError as exc:
        log.announce(f"no browser could be opened: {exc}")
