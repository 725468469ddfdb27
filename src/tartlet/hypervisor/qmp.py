"""The QEMU monitor: the commands this program uses, typed.

Specification: QEMU, docs/interop/qmp-spec. The connection is a connected pair of sockets whose other end QEMU inherits.
"""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import Any, cast

import anyio
from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError

from tartlet.errors import UserError
from tartlet.hypervisor.qmp_events import Events, subscribed

log = logging.getLogger(__name__)

HANDSHAKE = 60.0
"""Seconds QEMU may take from its start to its greeting: it opens disks and waits for network disks before it."""

# Without a handler the library's own reports of a lost connection would be printed; they arrive as errors anyway.
logging.getLogger("qemu").addHandler(logging.NullHandler())


class MonitorUnreachable(UserError):
    """QEMU did not greet, or its monitor is gone."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the monitor of QEMU does not answer: {reason}")


class CommandFailed(UserError):
    """QEMU refused a command, in its own words."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"QEMU refused {command}: {reason}")
        self.command, self.reason = command, reason


class RunState(enum.StrEnum):
    """Whether the guest's processors run, and why not (QEMU, qapi/run-state.json)."""

    DEBUG = "debug"
    FINISH_MIGRATE = "finish-migrate"
    INMIGRATE = "inmigrate"
    INTERNAL_ERROR = "internal-error"
    IO_ERROR = "io-error"
    PAUSED = "paused"
    POSTMIGRATE = "postmigrate"
    PRELAUNCH = "prelaunch"
    RESTORE_VM = "restore-vm"
    RUNNING = "running"
    SAVE_VM = "save-vm"
    SHUTDOWN = "shutdown"
    SUSPENDED = "suspended"
    WATCHDOG = "watchdog"
    GUEST_PANICKED = "guest-panicked"
    COLO = "colo"
    UNKNOWN = "unknown"
    """What a newer QEMU may add."""

    @classmethod
    def _missing_(cls, value: object) -> RunState:
        log.debug("QEMU is in a state this program does not know: %r", value)
        return cls.UNKNOWN


class Monitor:
    """One QEMU. Every method raises CommandFailed, and MonitorUnreachable when QEMU is gone."""

    def __init__(self, client: QMPClient, connection: socket.socket) -> None:
        self._client, self._connection = client, connection
        self._handing_over = anyio.Lock()
        """QEMU keeps only the last descriptor that was sent, until a command takes it."""

    async def status(self) -> RunState:
        """Whether the guest runs."""
        return RunState(str((await self._object("query-status"))["status"]))

    async def quit(self) -> None:
        """End QEMU at once; the guest is not asked. Returns when QEMU has heard it."""
        with suppress(MonitorUnreachable):  # QEMU may hang up before its answer is out
            await self._ask("quit")

    async def powerdown(self) -> None:
        """Press the guest's power button."""
        await self._ask("system_powerdown")

    async def reset(self) -> None:
        """Press the guest's reset button."""
        await self._ask("system_reset")

    async def stop(self) -> None:
        """Halt the guest's processors."""
        await self._ask("stop")

    async def cont(self) -> None:
        """Let the guest's processors run."""
        await self._ask("cont")

    async def plug_cable(self, card: str, *, plugged: bool) -> None:
        """Plug the cable of a network card in or out, as the guest sees it."""
        await self._ask("set_link", {"name": card, "up": plugged})

    async def set_vnc_password(self, password: str) -> None:
        """Set the password of the VNC server; QEMU uses eight characters of it."""
        await self._ask("set_password", {"protocol": "vnc", "password": password, "connected": "keep"})

    async def vnc_port(self) -> int:
        """The TCP port the VNC server listens on. Raises CommandFailed when there is no server."""
        reply = await self._object("query-vnc")
        if not reply.get("enabled") or "service" not in reply:
            raise CommandFailed("query-vnc", "there is no VNC server")
        return int(reply["service"])

    async def port_is_open(self, chardev: str) -> bool:
        """Whether the guest has opened the port that stands on the character device with this id."""
        return bool((await self._chardev(chardev))["frontend-open"])

    async def terminal_of(self, chardev: str) -> str:
        """The path of the pseudo-terminal behind a character device of kind `pty`."""
        return str((await self._chardev(chardev))["filename"]).removeprefix("pty:")

    async def give(self, name: str, descriptor: int) -> None:
        """Hand a descriptor to QEMU under a name; it stays open here too."""
        await self._ask_with(descriptor, "getfd", {"fdname": name})

    async def add_vnc_client(self, connection: int) -> None:
        """Let the VNC server serve a connected socket, and ask for no password; it stays open here too."""
        name = f"vnc{connection}"
        await self.give(name, connection)
        await self._ask("add_client", {"protocol": "vnc", "fdname": name, "skipauth": True})

    async def add_chardev(self, name: str, kind: str, options: Mapping[str, object]) -> None:
        """Make a character device (QEMU, qapi/char.json, ChardevBackend)."""
        await self._ask("chardev-add", {"id": name, "backend": {"type": kind, "data": options}})

    async def remove_chardev(self, name: str) -> None:
        """Remove a character device that nothing uses."""
        await self._ask("chardev-remove", {"id": name})

    async def add_device(self, properties: Mapping[str, object]) -> None:
        """Plug a device in: its `driver`, its `id` and whatever else it takes."""
        await self._ask("device_add", properties)

    async def remove_device(self, device: str) -> None:
        """Take out a device that the guest need not let go of, such as a port; it is gone when this returns."""
        with self.listening("DEVICE_DELETED") as events:
            await self.request_removal(device)
            async for event in events:
                if event.data.get("device") == device:
                    return
        raise MonitorUnreachable("QEMU ended in the middle of it")

    async def request_removal(self, device: str) -> None:
        """Ask the guest to let go of a device; DEVICE_DELETED tells when it has."""
        await self._ask("device_del", {"id": device})

    async def screenshot(self, into: int) -> None:
        """Write the guest's screen as PNG to a file that is open for writing only (QEMU 7.1, libpng)."""
        fdset = cast("dict[str, int]", await self._ask_with(into, "add-fd"))["fdset-id"]
        try:
            await self._ask("screendump", {"filename": f"/dev/fdset/{fdset}", "format": "png"})
        finally:
            await self._ask("remove-fd", {"fdset-id": fdset})

    async def send_input(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Let keys and pointer of the guest move (QEMU, qapi/ui.json, InputEvent)."""
        await self._ask("input-send-event", {"events": list(events)})

    async def add_block_node(self, node: Mapping[str, object]) -> None:
        """Open another image (QEMU, qapi/block-core.json, BlockdevOptions)."""
        await self._ask("blockdev-add", node)

    async def reopen_block_node(self, node: Mapping[str, object]) -> None:
        """Give an open image these options, all that it is to have."""
        await self._ask("blockdev-reopen", {"options": [node]})

    async def remove_block_node(self, name: str) -> None:
        """Close an image that nothing uses."""
        await self._ask("blockdev-del", {"node-name": name})

    async def grow(self, node: str, size: int) -> None:
        """Give the block node `size` bytes; the guest is told."""
        await self._ask("block_resize", {"node-name": node, "size": size})

    async def balloon(self, size: int) -> None:
        """Ask the guest's balloon driver to leave it `size` bytes of memory."""
        await self._ask("balloon", {"value": size})

    async def write_to_overlay(self, node: str, overlay: str) -> None:
        """Let what uses the block node `node` use the empty `overlay` on top of it instead."""
        await self._ask("blockdev-snapshot", {"node": node, "overlay": overlay})

    async def set_migration(self, *, capabilities: Mapping[str, bool], parameters: Mapping[str, int]) -> None:
        """How saving and restoring work."""
        wanted = [{"capability": name, "state": state} for name, state in capabilities.items()]
        await self._ask("migrate-set-capabilities", {"capabilities": wanted})
        if parameters:
            await self._ask("migrate-set-parameters", dict(parameters))

    async def migrate(self, uri: str) -> None:
        """Begin to write the machine's state to `uri`; events tell how it goes."""
        await self._ask("migrate", {"uri": uri})

    async def migrate_cancel(self) -> None:
        """Give up writing the machine's state; an event tells when that is done. Nothing when none is written."""
        await self._ask("migrate_cancel")

    async def migrate_incoming(self, uri: str) -> None:
        """Begin to read a machine's state from `uri` (QEMU was started with `-incoming defer`)."""
        await self._ask("migrate-incoming", {"uri": uri})

    async def migration(self) -> Mapping[str, Any]:
        """How far saving is: `status`, `error-desc`, `ram` (QEMU, qapi/migration.json, MigrationInfo)."""
        return await self._object("query-migrate")

    def listening(self, *names: str) -> AbstractContextManager[Events]:
        """Subscribe to events for the length of the block; all of them without a name."""
        return subscribed(self._client, names)

    async def _chardev(self, name: str) -> dict[str, Any]:
        for entry in cast("list[dict[str, Any]]", await self._ask("query-chardev")):
            if entry["label"] == name:
                return entry
        raise CommandFailed("query-chardev", f"there is no character device {name}")

    async def _object(self, command: str) -> dict[str, Any]:
        return cast("dict[str, Any]", await self._ask(command))

    async def _ask_with(self, descriptor: int, command: str, arguments: Mapping[str, object] | None = None) -> object:
        async with self._handing_over:
            socket.send_fds(self._connection, [b" "], [descriptor])
            return await self._ask(command, arguments)

    async def _ask(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as exc:
            raise CommandFailed(command, str(exc)) from exc
        except (ExecInterruptedError, QMPError) as exc:  # StateError, too: the connection is over
            raise MonitorUnreachable(str(exc)) from exc


@asynccontextmanager
async def connected(connection: socket.socket, *, handshake: float = HANDSHAKE) -> AsyncGenerator[Monitor]:
    """Greet QEMU over a connected socket and hang up when the block ends; the socket is closed then.

    Raises MonitorUnreachable when QEMU is gone or does not greet within `handshake` seconds.
    """
    client = QMPClient()
    client.events.names = {"no such event"}  # the library would keep every event of a machine's life
    connection.setblocking(False)
    try:
        with anyio.fail_after(handshake):
            await client.connect(connection)
    except TimeoutError as exc:
        connection.close()
        raise MonitorUnreachable(f"no greeting within {handshake:g} seconds") from exc
    except ConnectError as exc:
        connection.close()
        raise MonitorUnreachable(str(exc.exc) or "it hung up") from exc
    try:
        yield Monitor(client, connection)
    finally:
        with anyio.CancelScope(shield=True):
            await _hung_up(client)


async def _hung_up(client: QMPClient) -> None:
    try:
        await client.disconnect()
    except (EOFError, OSError, QMPError) as exc:  # how the connection had ended before; told to whoever asked
        log.debug("the monitor had hung up: %r", exc)
