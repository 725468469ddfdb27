"""The shared network in the host's own: a bridge that the kernel carries, where the host reaches each guest by its own
address. A privileged process (`host_process`) makes it; this is its client, who needs no rights.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import IPv4Address

import anyio

from tartlet.errors import UserError
from tartlet.host.beside import beside
from tartlet.network.attachment import (
    Attachment,
    AttachRequest,
    BackendUnusable,
    Cable,
    Forward,
    Lack,
    NetworkLost,
    NetworkMode,
)
from tartlet.network.bridge import host_line
from tartlet.network.bridge.host_line import NAME, HostLine, HostPlace, host_joined
from tartlet.network.policy.policy import policy_for
from tartlet.network.record import NetworkRecord
from tartlet.network.rules.control import controlled
from tartlet.network.rules.filter import state_of
from tartlet.network.rules.refusals import recorded
from tartlet.network.shared import links, splice, wire
from tartlet.network.shared.keepers import Keeper
from tartlet.network.shared.splice import connected, listening

log = logging.getLogger(__name__)

_SETUP = "sudo tart network setup"
_LOCAL = "127.0.0.1"
_MOVING, _PAUSE = 10.0, 0.1
"""Seconds for which it is tried to move to another process, and between two attempts."""


class Bridge:
    """The shared network in the host's own."""

    name = NAME
    modes = frozenset({NetworkMode.NAT, NetworkMode.SOFTNET, NetworkMode.HOST})
    offloads = True

    def __init__(self, *, on_demand: bool = False) -> None:
        """`on_demand`: where no process is installed, one is started; the host's network is not changed unasked."""
        self._on_demand = on_demand

    def lacking(self) -> Lack | None:
        """What keeps it from being used here, as far as that shows without starting anything."""
        if sys.platform != "linux":
            return Lack(reason="bridges and taps are a thing of Linux")
        if os.access(host_line.socket_path(), os.W_OK):
            return None
        if not self._on_demand:
            return _not_installed()
        return _not_startable()

    @asynccontextmanager
    async def attach(self, request: AttachRequest) -> AsyncGenerator[Attachment]:
        """Join the host's network.

        Raises BackendUnusable, BadControlDescriptor, InvalidArgument (a rule of the policy), PortTaken.
        """
        policy = policy_for(request)
        _check_forwards(request.forwards)
        names = policy is not None and request.control_descriptor is not None
        async with AsyncExitStack() as held:
            keeper = self.keeper()
            line = await held.enter_async_context(host_joined(keeper, request, policy, names=names))
            address = line.plug.address
            own = [(_LOCAL, one.port, one.guest_port) for one in (policy.expose if policy else ())]
            doors = held.enter_context(listening(own))
            await held.enter_async_context(recorded(line, request.refusals if policy else None))
            await held.enter_async_context(controlled(request.control_descriptor, line, line.isolate))
            room = anyio.Semaphore(splice.AT_ONCE)
            ways = [(listener, partial(connected, address, port), room) for listener, port in doors]
            await held.enter_async_context(beside(*(partial(splice.serve, *way) for way in ways)))
            yield Attachment(
                cables=(_cable(line.place),),
                record=NetworkRecord(backend=self.name, address=str(address), guest_address=str(address)),
                lost=partial(_lost, line, keeper, request, names),
                filter_state=partial(state_of, line),
                notes=_moved(request, address),
            )

    def keeper(self) -> Keeper:
        """The privileged process, once nothing lacks."""
        if self._on_demand and not os.access(host_line.socket_path(), os.W_OK):
            return host_line.on_demand()
        return host_line.by_socket()


def _cable(place: HostPlace) -> Cable:
    return Cable(netdev=links.netdev(place.tap), descriptors=(place.tap, place.lifeline, place.standing))


def _not_installed() -> Lack:
    path = host_line.socket_path()
    if os.path.exists(path):
        return Lack(
            reason=f"this user may not use {path}", hint=f"sudo usermod -aG tart {os.environ.get('USER', 'NAME')}"
        )
    return Lack(reason="the privileged process for the host's network is not installed", hint=_SETUP)


def _not_startable() -> Lack | None:
    if os.geteuid() == 0:
        return None
    if shutil.which("sudo") is None:
        return Lack(reason="starting the privileged process takes root or sudo", hint=_SETUP)
    _, option, *words = host_line.sudo_words()
    done = subprocess.run(["sudo", option, "--list", *words], capture_output=True, check=False, timeout=10)
    if done.returncode:
        return Lack(reason=f"sudo does not let this user start {wire.HELPER} without a password", hint=_SETUP)
    return None


def _check_forwards(forwards: Iterable[Forward]) -> None:
    """The guest's address is its own: all its ports are there, under their numbers."""
    for one in forwards:
        if one.port != one.guest_port:
            reason = f"port {one.port} of the guest's own address cannot lead to its port {one.guest_port}"
            raise BackendUnusable(NAME, Lack(reason=reason))


def _moved(request: AttachRequest, address: IPv4Address) -> tuple[str, ...]:
    """What a resumed guest has to be told, which believes to have another address."""
    former = request.keep and request.keep.guest_address
    if not former or former == str(address):
        return ()
    return (f"the guest's old address {former} is not free: it has to ask for {address}, its new one, by DHCP",)


async def _lost(line: HostLine, keeper: Keeper, request: AttachRequest, names: bool) -> NetworkLost:
    """When the process is replaced by another one the VM moves there, and nothing is lost."""
    while True:
        if reason := await line.place.ended():
            return _loss(reason)
        try:
            await _moved_over(line, keeper, request, names)
        except UserError as failure:
            return _loss(f"its process ended, and no other takes the VM in: {failure}")


async def _moved_over(line: HostLine, keeper: Keeper, request: AttachRequest, names: bool) -> None:
    """Try for some time: the next process has to start, and the rules of the former one to go. Raises UserError."""
    deadline = anyio.current_time() + _MOVING
    while True:
        try:
            return await line.move(keeper, request, names=names)
        except UserError as failure:
            if anyio.current_time() > deadline:
                raise
            log.debug("not taken in yet: %s", failure)
        await anyio.sleep(_PAUSE)


def _loss(reason: str) -> NetworkLost:
    return NetworkLost(
        f"the VM lost its place in the host's network: {reason}",
        "the guest has no network any more: run the VM again",
    )
