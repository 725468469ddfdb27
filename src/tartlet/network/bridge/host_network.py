"""The bridges of the VMs in the host's own network. Made by the privileged process; needs CAP_NET_ADMIN and a few more.

What is in the kernel for all guests belongs to no process and is taken away by `caretaker`. A process that was killed
leaves it to guests that still run, and the next one begins anew.
"""

from __future__ import annotations

import itertools
import re
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from tartlet.errors import UserError
from tartlet.network.attachment import NetworkMode
from tartlet.network.bridge.caretaker import Caretaker
from tartlet.network.bridge.requests import Attach, NotAllowed
from tartlet.network.preferences import Preferences
from tartlet.network.rules.guard import TAP_PREFIX
from tartlet.network.shared import links, subnet
from tartlet.network.shared.bridges import HOST_ONLY, ROUTED, Bridges
from tartlet.network.shared.fabric import Fabric, Plugged, apply, base_removal
from tartlet.network.shared.helpers import Helper, HelperDead
from tartlet.network.shared.inside import Inside
from tartlet.network.shared.links import Tap
from tartlet.network.shared.netlink import deleted_tables

_SOCKETS = Path("/proc/thread-self/net/udp")
"""The addresses that UDP sockets are bound to (proc(5))."""

_DNS = 53
_PATIENCE, _LOOK = 3.0, 0.002
"""Seconds that dnsmasq gets to listen, and between two looks."""

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_RESOLVERS = Path("/etc/resolv.conf")


class InterfaceTaken(UserError):
    """An interface of the host has the name of our bridge."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this host has an interface {name} that is not of tart's making", f"rename it: {name} is ours"
        )


class HostNetwork:
    """The bridges, and the programs that serve them. All that is done to the host is done by one thread."""

    def __init__(self, preferences: Preferences, folder: Path, tasks: TaskGroup) -> None:
        """`folder` is for the servers' files; `tasks` is where the programs are kept running.

        Raises InterfaceTaken, ToolFailed, ToolMissing, OSError.
        """
        self._inside = Inside(own_network=False)
        self._tasks = tasks
        self._inside.do(remove_leftovers)
        self._numbers = itertools.count(self._inside.do(_first_number))
        self._caretakers: dict[str, Caretaker] = {}
        self._kept = set[str]()
        self._taps = set[str]()
        self.failure: str | None = None
        """Why all of this ends, when it does by itself."""
        self._bridges = Bridges(
            preferences,
            outside=subnet.host_routes(),
            folder=folder,
            upstream=_RESOLVERS,
            within=lambda start: start,
        )
        tasks.start_soon(self._keep_rules)

    @property
    def fabrics(self) -> list[Fabric]:
        """The bridges that stand."""
        return list(self._bridges.fabrics.values())

    def standing(self, fabric: Fabric) -> int:
        """A descriptor that keeps the bridge, as long as somebody has it open."""
        return self._caretakers[fabric.served.bridge].standing

    @asynccontextmanager
    async def plugged(self, asked: Attach, owner: int, *, isolated: bool) -> AsyncGenerator[tuple[Fabric, Plugged]]:
        """A place for a VM of that user for the length of the block; then its tap is gone, whoever has it open.

        Raises NotAllowed, NetworkTaken, NoAddressLeft, MacTaken, ToolFailed, ToolMissing, OSError.
        """
        fabric, plugged = await self._inside.done(self._place, asked, owner, isolated)
        ended = False
        try:
            self._keep_running()
            yield fabric, plugged
            ended = True
        finally:
            still_a_guests = asked.tap is not None and not ended  # it may ask once more
            await self._inside.done(self._give_back, fabric, plugged, still_a_guests)

    async def isolate(self, plugged: Plugged, isolated: bool) -> None:
        """Whether the VM exchanges nothing with other isolated ones. Raises ToolFailed, ToolMissing."""
        await self._inside.done(links.set_isolated, plugged.tap.name, isolated)

    def _place(self, asked: Attach, owner: int, isolated: bool) -> tuple[Fabric, Plugged]:
        mode = NetworkMode(asked.mode)
        wish = IPv4Address(asked.wish) if asked.wish else None
        tap = self._tap(asked.tap, owner)
        fabric, plugged = self._bridges.plug(asked.vm, asked.mac, mode, wish, tap=tap, isolated=isolated)
        try:
            _check_restored(asked, plugged)
            self._serve(fabric)
        except BaseException:
            if asked.tap:
                links.unplug(tap.name)
            fabric.unplug(plugged)
            tap.close()
            raise
        self._taps.add(tap.name)
        return fabric, plugged

    def _give_back(self, fabric: Fabric, plugged: Plugged, still_a_guests: bool) -> None:
        """The guest's user may have kept the tap open, or made it last: it goes anyway."""
        if still_a_guests:
            links.unplug(plugged.tap.name)
        else:
            links.remove(plugged.tap.name)
        self._taps.discard(plugged.tap.name)
        fabric.unplug(plugged)

    def _tap(self, restored: str | None, owner: int) -> Tap:
        """A new tap of that user's, or one that he has open already."""
        if restored is None:
            tap = links.open_tap(f"{TAP_PREFIX}{next(self._numbers)}")
            links.give_tap(tap, owner)
            return tap
        if restored in self._taps or links.tap_owner(restored) != owner:
            raise NotAllowed(f"{restored} is not the tap of a VM of this user")
        return Tap(name=restored, descriptor=-1)

    def _serve(self, fabric: Fabric) -> None:
        """Whatever a bridge needs that is new."""
        if fabric.served.bridge not in self._caretakers:
            caretaker = self._caretakers[fabric.served.bridge] = Caretaker(fabric)
            self._bridges.helpers.append(caretaker)
        if fabric.served.routed and _FORWARDING.read_text().strip() != "1":
            _FORWARDING.write_text("1")
        new = [one for one in self._bridges.helpers if one.name not in self._kept and one.process is None]
        for helper in new:
            helper.begin()
        if new:
            _await_serving(fabric.served.gateway, new)

    def _keep_running(self) -> None:
        for helper in self._bridges.helpers:
            if helper.name not in self._kept:
                self._kept.add(helper.name)
                self._tasks.start_soon(self._keep, helper)

    async def _keep_rules(self) -> None:
        """Put the rules for all guests back when another program clears those of the host. Raises ToolFailed."""
        async with aclosing(deleted_tables()) as deletions:
            async for _ in deletions:
                await self._inside.done(self._restore_rules)

    def _restore_rules(self) -> None:
        for fabric in self.fabrics:
            fabric.restore_rules()

    async def _keep(self, helper: Helper) -> None:
        """Start it again whenever it dies. Raises KeepsDying, ToolMissing, OSError."""
        while True:
            await anyio.wait_readable(helper.descriptor)
            try:
                helper.ended()
                await self._inside.done(helper.begin)
            except (UserError, OSError) as exc:
                self.failure = str(exc)
                raise


def remove_leftovers() -> None:
    """Take away what a process left that was killed, with its guests' way out. Raises InterfaceTaken, ToolFailed."""
    for bridge in (ROUTED, HOST_ONLY):
        if bridge in _interfaces():
            if not links.is_ours(bridge):
                raise InterfaceTaken(bridge)
            links.remove(bridge)
        apply(base_removal(bridge))


def _await_serving(gateway: IPv4Address, helpers: list[Helper]) -> None:
    """Return when the gateway's name server listens, which is the last thing that dnsmasq does before it serves.

    Raises HelperDead for a program that gives up, as when another one has its port.
    """
    listens = f"{int.from_bytes(gateway.packed, sys.byteorder):08X}:{_DNS:04X}"
    deadline = time.monotonic() + _PATIENCE
    while listens not in _SOCKETS.read_text() and time.monotonic() < deadline:
        for helper in helpers:
            if helper.process is not None and helper.process.poll() is not None:
                told = helper.last_words()
                helper.ended()
                raise HelperDead(helper.name, told)
        time.sleep(_LOOK)


def _check_restored(asked: Attach, plugged: Plugged) -> None:
    """A guest that runs cannot be told another address."""
    if asked.tap and str(plugged.address) != asked.wish:
        raise NotAllowed(f"the guest's address {asked.wish} is not to be had any more")


def _first_number() -> int:
    """The first after those of taps that guests of a killed process have."""
    found = (re.fullmatch(rf"{TAP_PREFIX}([0-9]+)", name) for name in _interfaces())
    return max((int(number[1]) + 1 for number in found if number), default=0)


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}
