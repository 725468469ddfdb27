"""The clipboard that a guest shares with the viewer of its screen, by QEMU's own peer of spice-vdagent.

QEMU's peer (`-chardev qemu-vdagent`) keeps a machine from being saved, up to 10.0 at least. So its port is no part of
the machine as it is started: it is plugged in before the guest runs, and is out while a state is saved. The guest sees
a port that goes and comes back. The protocol on the port is that of SPICE's agent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from tartlet.hypervisor.devices import PORTS_BUS, SPARE_PORT
from tartlet.hypervisor.qmp import CommandFailed, Monitor, MonitorUnreachable

PORT = "com.redhat.spice.0"
"""What spice-vdagent looks for in the guest."""

_NAME = "clipboard"


class SharedClipboard:
    """The clipboard of one running machine. Does nothing when it is not `wanted`."""

    def __init__(self, monitor: Monitor, note: Callable[[str], None], *, wanted: bool) -> None:
        self._monitor, self._note, self._wanted = monitor, note, wanted
        self._plugged = False

    async def plug_in(self) -> None:
        """Share it from now on. A QEMU that cannot is noted: nothing else depends on it."""
        if not self._wanted or self._plugged:
            return
        try:
            await self._add()
        except (CommandFailed, MonitorUnreachable) as exc:
            self._note(f"the clipboard is not shared: {exc}")
        else:
            self._plugged = True

    async def _add(self) -> None:
        # Its mouse would be a second pointing device beside the tablet that every guest has.
        await self._monitor.add_chardev(_NAME, "qemu-vdagent", {"clipboard": True, "mouse": False})
        port = {"driver": "virtserialport", "bus": PORTS_BUS, "nr": SPARE_PORT, "chardev": _NAME, "name": PORT}
        try:
            await self._monitor.add_device({**port, "id": _NAME})
        except CommandFailed:
            await self._monitor.remove_chardev(_NAME)  # which would keep the machine from being saved
            raise

    @asynccontextmanager
    async def kept_out(self) -> AsyncGenerator[None]:
        """Not shared for the length of the block, in which the machine can be saved.

        Raises CommandFailed, MonitorUnreachable.
        """
        if not self._plugged:
            yield
            return
        await self._monitor.remove_device(_NAME)
        await self._monitor.remove_chardev(_NAME)
        self._plugged = False
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.plug_in()
