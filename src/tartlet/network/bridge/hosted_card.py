"""A bridged card for a user without rights, made by the privileged process where an administrator allows it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from tartlet.host.beside import beside
from tartlet.network import preferences
from tartlet.network.bridge.requests import BridgedCard, NotAllowed, check_mac
from tartlet.network.cards import bridged_links, ear, interfaces
from tartlet.network.cards.bridged_links import BridgedLink
from tartlet.network.cards.interfaces import HostInterface
from tartlet.network.shared import links


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedCard:
    """A card that a VM has. Its supervisor and its QEMU hold the other end of a pipe."""

    told: dict[str, Any]
    """The answer to the request."""
    lifeline: int
    """Readable when supervisor and QEMU have ended."""

    async def ended(self) -> None:
        """Return when the VM has ended."""
        await anyio.wait_readable(self.lifeline)


@asynccontextmanager
async def hosted_card(asked: BridgedCard, *, everywhere: bool) -> AsyncGenerator[tuple[HostedCard, list[int]]]:
    """A card for the length of the block, and the descriptors for its supervisor, to be closed here.

    It is taken away at the end even from who holds on to it. `everywhere`: the administrator's list does not matter.
    Raises InterfaceMissing, InterfaceUnfit, NotAllowed, MacTaken, PreferencesBroken, ToolFailed, ToolMissing, OSError.
    """
    check_mac(asked.mac)
    interface = await anyio.to_thread.run_sync(interfaces.find, asked.interface)
    if not everywhere:
        _check_allowed(interface)
    link = await anyio.to_thread.run_sync(_linked, interface, asked.mac)
    assert link.ear is not None
    async with AsyncExitStack() as held:
        held.enter_context(link.ear)
        lifeline, theirs = os.pipe()
        held.callback(os.close, lifeline)
        hears, tells = os.pipe()
        held.callback(os.close, tells)
        os.set_blocking(tells, False)
        removal = _removal(link, held)
        await held.enter_async_context(beside(partial(ear.relay, link.ear, tells)))
        card = HostedCard(told={"mtu": link.mtu}, lifeline=lifeline)
        try:
            yield card, [link.cable, theirs, hears, *([link.shelter] if link.shelter is not None else [])]
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(removal)


def _check_allowed(interface: HostInterface) -> None:
    allowed = preferences.read(preferences.SYSTEM_FILE).bridged_allow
    if interface.name not in allowed:
        listed = ",".join([*allowed, interface.name])
        raise NotAllowed(
            f"users may not put VMs on {interface.name}",
            f"an administrator allows it: sudo tart network set --system bridged.allow {listed}",
        )


def _linked(interface: HostInterface, mac: str) -> BridgedLink:
    try:
        return bridged_links.linked(interface, mac)
    except PermissionError as exc:
        raise NotAllowed(
            f"{interface.name} is a network card, and the helper has the right to use bridges only",
            f"make a bridge of {interface.name}, or run as root",
        ) from exc


def _removal(link: BridgedLink, held: AsyncExitStack) -> partial[None]:
    """What takes the link away, should it stand by then."""
    if link.shelter is not None:
        shelter = os.dup(link.shelter)
        held.callback(os.close, shelter)
        return partial(bridged_links.remove_sheltered, shelter)
    return partial(_remove_tap, link.name, socket.if_nametoindex(link.name))


def _remove_tap(name: str, number: int) -> None:
    """Unless it has gone by itself, and the name means another one by now."""
    if (number, name) in socket.if_nameindex():
        links.remove(name)
