"""The user-mode network of the separate program passt: faster than slirp, and the host's loopback stays closed.

passt and QEMU hold the two ends of one socket pair. passt ends when its end hears that the other is closed, so it dies
with the supervisor and with QEMU, however those end and whatever user passt has become meanwhile (started as root it
turns into nobody, which would cancel a parent-death signal).
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache
from ipaddress import IPv4Address

import anyio
from anyio.abc import Process

from tartlet.host.process import started
from tartlet.network import trial
from tartlet.network.attachment import (
    SSH,
    Attachment,
    AttachRequest,
    BackendUnusable,
    Cable,
    Lack,
    NetworkLost,
    NetworkMode,
)
from tartlet.network.record import NetworkRecord
from tartlet.network.shared import loopback, resolvers, subnet
from tartlet.network.shared.helpers import last_line
from tartlet.network.shared.loopback import Doorway
from tartlet.network.shared.subnet import Subnet

log = logging.getLogger(__name__)

START = 3.0
"""Seconds in which passt has to make its first connection; it takes a few milliseconds."""

_GRACE = 2.0
_GATEWAY_MAC = "52:55:0a:00:02:02"
"""Instead of the MAC address of the host's interface, which is nobody else's business."""

_NEEDED_OPTIONS = ("--fd", "--no-map-gw", "--one-off")


class Passt:
    """The program passt, one process for each VM."""

    name = "passt"
    modes = frozenset({NetworkMode.NAT})
    offloads = False

    def lacking(self) -> Lack | None:
        """What keeps passt from being used here, as far as that shows without starting it."""
        program = shutil.which("passt")
        if program is None:
            return Lack(reason="the program passt was not found", hint="install it: apt install passt")
        missing = [option for option in _NEEDED_OPTIONS if option not in _help(program)]
        if missing:
            return Lack(reason=f"{program} is too old: it has no {', '.join(missing)}", hint="update passt")
        if not subnet.has_default_route():
            return Lack(reason="passt does not start on a host without a default route")
        if not resolvers.reachable_from_guest():
            return Lack(reason="the host's name servers listen on its loopback only, where passt's guests cannot ask")
        return None

    @asynccontextmanager
    async def attach(self, request: AttachRequest) -> AsyncGenerator[Attachment]:
        """Start passt for the length of the block, and see it make a connection first.

        Raises BackendUnusable when it does not, NoFreeAddress, PortTaken.
        """
        keep = request.keep
        net = subnet.choose(subnet.host_routes(), keep.guest_address if keep else None)
        with loopback.doorway(request.mac, preferred=keep.address if keep else None, more=request.forwards) as door:
            ours, theirs = socket.socketpair()
            with ours:
                async with _Running.started(_words(net, door, request, theirs), theirs) as running:
                    await _tried(running, ours, net, door, request.mac)
                    yield Attachment(
                        cables=(Cable(netdev=f"socket,fd={ours.fileno()}", descriptors=(ours.fileno(),)),),
                        record=NetworkRecord(
                            backend=self.name,
                            address=door.address,
                            ssh_port=door.ssh_port,
                            guest_address=str(net.guest),
                        ),
                        lost=running.lost,
                        notes=(door.note,) if door.note else (),
                    )
                    # `ours` stays open until here, so passt never ends before QEMU's end has been seen.


def command_line(
    net: Subnet, door: Doorway, request: AttachRequest, servers: list[IPv4Address], descriptor: int
) -> list[str]:
    """passt's words: IPv4 only, our addresses, the host's loopback closed, and the door's ports (passt(1))."""
    words = [
        "passt", "--foreground", "--one-off", "--quiet", "--fd", str(descriptor),
        "--ipv4-only", "--no-map-gw", "--mac-addr", _GATEWAY_MAC,
        "--address", str(net.guest), "--netmask", str(net.network.prefixlen), "--gateway", str(net.gateway),
        "--search", "none", "--udp-ports", "none",
    ]  # fmt: skip
    for server in servers:
        words += ["--dns", str(server)]
    for forward in door.forwards(request.forwards):
        words += ["--tcp-ports", f"{door.address}/{forward.port}:{forward.guest_port}"]
    return words


def _words(net: Subnet, door: Doorway, request: AttachRequest, end: socket.socket) -> list[str]:
    return command_line(net, door, request, resolvers.reachable_from_guest(), end.fileno())


@cache
def _help(program: str) -> str:
    """What `passt --help` says, on either stream and with any status; asked once."""
    try:
        told = subprocess.run(
            [program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        log.debug("%s --help: %s", program, exc)
        return ""
    return (told.stdout + told.stderr).decode(errors="replace")


async def _tried(running: _Running, cable: socket.socket, net: Subnet, door: Doorway, mac: str) -> None:
    place = trial.Place(
        mac=bytes(int(octet, 16) for octet in mac.split(":")),
        net=net,
        door=door.address,
        port=door.ssh_port,
        guest_port=SSH,
    )
    try:
        with anyio.fail_after(START):
            await trial.connects(cable, place)
    except (TimeoutError, trial.TrialFailed, OSError) as exc:
        log.debug("passt's trial: %r", exc)
        told = running.last_words()
        reason = told or "it accepts connections to the guest and does not complete them"
        raise BackendUnusable("passt", Lack(reason=f"passt failed its trial: {reason}", hint="update passt")) from exc


class _Running:
    """One passt process and what it said."""

    def __init__(self, process: Process, said: int) -> None:
        self._process = process
        self._said = said
        """A pipe of 64 KiB that passt does not wait for when it is full: nobody has to read along."""

    @classmethod
    @asynccontextmanager
    async def started(cls, words: list[str], end: socket.socket) -> AsyncGenerator[_Running]:
        """The process for the length of the block; it is reaped before the block is left. Takes `end` over."""
        log.debug("start: %s", shlex.join(words))
        said, says = os.pipe()
        os.set_blocking(says, False)
        os.set_blocking(said, False)
        try:
            running = cls(await _started(words, end, says), said)
            try:
                yield running
            finally:
                with anyio.CancelScope(shield=True):
                    await running._ended()
        finally:
            os.close(said)

    async def lost(self) -> NetworkLost:
        """Wait until it has ended, and tell that as an error."""
        status = await self._process.wait()
        told = self.last_words()
        return NetworkLost(
            f"the network helper passt ended with status {status}" + (f": {told}" if told else ""),
            "the guest has no network any more: run the VM again",
        )

    def last_words(self) -> str:
        """The last line that it said; empty when it said nothing."""
        told = last_line(self._said)
        return "" if "Don't run as root" in told else told  # said before it starts working, and no complaint

    async def _ended(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            with anyio.move_on_after(_GRACE):
                await self._process.wait()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.aclose()


async def _started(words: list[str], end: socket.socket, says: int) -> Process:
    try:
        with end:
            return await started(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=says,
                pass_fds=[end.fileno()],
                start_new_session=True,  # Ctrl+C is for the supervisor
            )
    except OSError as exc:
        raise BackendUnusable("passt", Lack(reason=f"passt does not start: {exc.strerror}")) from exc
    finally:
        os.close(says)
