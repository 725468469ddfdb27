"""What one VM has in the host's network while it runs: a tap, an address, its rules, the relay for allowed names."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import anyio

from tartlet.network.attachment import NetworkMode
from tartlet.network.bridge.exposed import ExposedPorts
from tartlet.network.bridge.host_network import HostNetwork
from tartlet.network.bridge.requests import MOST_TARGETS, Attach, NotAllowed, check_mac, check_name
from tartlet.network.policy.policy import Policy
from tartlet.network.rules.filter import Filter, filtered
from tartlet.network.rules.name_watch import names_watched
from tartlet.network.rules.nft import Rules, kernel_rules
from tartlet.network.rules.plug import Plug
from tartlet.network.shared.fabric import Fabric, Plugged


@dataclass(slots=True, kw_only=True)
class HostedGuest:
    """A VM in the network. Its supervisor and its QEMU hold the other ends of two pipes."""

    owner: int
    """The user whose VM it is."""
    name: str
    fabric: Fabric
    plugged: Plugged
    filter: Filter
    rules: Rules
    lifeline: int
    """Readable when supervisor and QEMU have ended."""
    alarm: int
    """Takes the reason when the guest loses its network."""
    over: bool = False
    """Whether what it had is being given back."""

    def has_ended(self) -> bool:
        """Whether it is over, or about to be."""
        if self.over:
            return True
        looking = select.poll()
        looking.register(self.lifeline, select.POLLIN)
        return bool(looking.poll(0))

    async def ended(self) -> None:
        """Return when the VM has ended, or has lost its rules, which its supervisor is told."""
        async with anyio.create_task_group() as tasks:

            async def first(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(first, partial(anyio.wait_readable, self.lifeline))
            tasks.start_soon(first, self._mute)

    def tell(self, reason: str) -> None:
        """Tell the supervisor why the guest's network ends."""
        with suppress(BrokenPipeError):  # it has ended itself
            os.write(self.alarm, reason.encode()[:4000])

    async def _mute(self) -> None:
        self.tell(str(await self.rules.lost()))


@asynccontextmanager
async def hosted(
    network: HostNetwork, ports: ExposedPorts, asked: Attach, owner: int
) -> AsyncGenerator[tuple[HostedGuest, list[int]]]:
    """A guest of that user for the length of the block, and the descriptors for its supervisor, to be closed here.

    Raises InvalidArgument, NotAllowed, PortTaken, NoAddressLeft, MacTaken, NetworkTaken, RulesRefused, ToolFailed,
    ToolMissing, OSError.
    """
    check_name(asked.vm)
    check_mac(asked.mac)
    policy = policy_of(asked)
    exposed = [one.port for one in policy.expose] if policy else []
    async with AsyncExitStack() as held:
        held.enter_context(ports.taken(exposed, owner, moving=asked.tap is not None))
        isolated = policy is None or policy.isolated
        fabric, plugged = await held.enter_async_context(network.plugged(asked, owner, isolated=isolated))
        given = [plugged.tap.descriptor] if plugged.tap.descriptor >= 0 else []
        try:
            rules = await held.enter_async_context(kernel_rules())
            filter_ = await held.enter_async_context(filtered(rules, _plug(fabric, plugged), policy))
            if policy and (asked.names or policy.domains):
                guests, servers = (held.enter_context(_udp()) for _ in range(2))
                await held.enter_async_context(names_watched(filter_, rules, guests, servers))
            lifeline, theirs = os.pipe()
            held.callback(os.close, lifeline)
            hears, alarm = os.pipe()
            held.callback(os.close, alarm)
            given += [theirs, hears, os.dup(network.standing(fabric))]
            os.set_blocking(alarm, False)
            guest = HostedGuest(
                owner=owner, name=asked.vm, fabric=fabric, plugged=plugged, filter=filter_, rules=rules,
                lifeline=lifeline, alarm=alarm,
            )  # fmt: skip
        except BaseException:
            _close(given)
            raise
        try:
            yield guest, given
        finally:
            guest.over = True
            if network.failure:
                guest.tell(network.failure)


def policy_of(asked: Attach) -> Policy | None:
    """The policy of a request. Raises InvalidArgument, NotAllowed."""
    mode = NetworkMode(asked.mode)
    if mode is not NetworkMode.SOFTNET:
        if asked.allow or asked.block or asked.expose:
            raise NotAllowed("only a Softnet VM has rules")
        return Policy() if mode is NetworkMode.HOST else None
    check_count(asked.allow, asked.block)
    return Policy.parse(expose=",".join(asked.expose) or None).with_lists(asked.allow, asked.block)


def check_count(allow: list[str], block: list[str]) -> None:
    """Raises NotAllowed for lists that are too long."""
    if len(allow) + len(block) > MOST_TARGETS:
        raise NotAllowed(f"a policy has at most {MOST_TARGETS} elements")


def _plug(fabric: Fabric, plugged: Plugged) -> Plug:
    return Plug(
        tap=plugged.tap.name,
        bridge=fabric.served.bridge,
        mac=plugged.mac,
        address=plugged.address,
        gateway=fabric.served.gateway,
    )


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
