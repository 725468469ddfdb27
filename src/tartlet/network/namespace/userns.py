"""A network shared by one user's VMs, in a namespace of its own: a bridge, DHCP, names and a packet filter, no rights.

The host's network is not changed and not seen by the guests; root gets the same. The first VM starts the process that
holds it all (`holder`), the others join, and it ends with the last one. QEMU stays outside and is handed a tap. The
host reaches a guest by an address of its loopback that belongs to this VM, and the bytes go through the kernel.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import anyio

from tartlet.host.beside import beside
from tartlet.network.attachment import (
    EVERYWHERE,
    Attachment,
    AttachRequest,
    Cable,
    Lack,
    NetworkLost,
    NetworkMode,
)
from tartlet.network.namespace import pasta
from tartlet.network.namespace.line import Line, Place, joined
from tartlet.network.policy.policy import Policy, policy_for
from tartlet.network.record import NetworkRecord
from tartlet.network.rules.control import controlled
from tartlet.network.rules.filter import filtered, state_of
from tartlet.network.rules.name_watch import names_watched
from tartlet.network.rules.nft import Rules, kernel_rules
from tartlet.network.rules.refusals import recorded
from tartlet.network.shared import dnsmasq, links, loopback, splice
from tartlet.network.shared.loopback import Doorway

NAME = "userns"
_PROGRAMS = (
    ("unshare", "install it: apt install util-linux"),
    ("setsid", "install it: apt install util-linux"),
    ("nsenter", "install it: apt install util-linux"),
    ("ip", "install it: apt install iproute2"),
    ("bridge", "install it: apt install iproute2"),
    ("nft", "install it: apt install nftables"),
    ("dnsmasq", dnsmasq.HINT),
    ("pasta", pasta.HINT),
)
_FORBIDDEN = (
    ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
"""Settings under /proc/sys, the value that forbids an ordinary user his own namespaces, and what ends that."""


class Userns:
    """The shared network in a namespace of its own."""

    name = NAME
    modes = frozenset({NetworkMode.NAT, NetworkMode.SOFTNET, NetworkMode.HOST})
    offloads = True

    def lacking(self) -> Lack | None:
        """What keeps it from being used here, as far as that shows without starting anything."""
        if sys.platform != "linux":
            return Lack(reason="network namespaces are a thing of Linux")
        for program, hint in _PROGRAMS:
            if shutil.which(program) is None:
                return Lack(reason=f"the program {program} was not found", hint=hint)
        return _forbidden() or _without_taps()

    @asynccontextmanager
    async def attach(self, request: AttachRequest) -> AsyncGenerator[Attachment]:
        """Join the user's network, which is started if need be.

        Raises BackendUnusable, BadControlDescriptor, InvalidArgument (a rule of the policy), MacTaken, NoFreeAddress,
        PortTaken, RulesRefused.
        """
        policy, keep = policy_for(request), request.keep
        async with AsyncExitStack() as held:
            door = held.enter_context(
                loopback.doorway(request.mac, preferred=keep.address if keep else None, more=request.forwards)
            )
            doors = held.enter_context(splice.listening(_doors(door, request, policy)))
            isolated = policy is None or policy.isolated
            line, place = await held.enter_async_context(joined(NAME, request, isolated=isolated))
            rules = await held.enter_async_context(kernel_rules(place.entering))
            inside = replace(policy, expose=()) if policy else None  # exposed ports are doors of the host's network
            standing = await held.enter_async_context(filtered(rules, place.plug, inside))
            if policy and (policy.domains or request.control_descriptor is not None):  # there may be some later
                guests, servers = [held.enter_context(await line.new_socket(socket.SOCK_DGRAM)) for _ in range(2)]
                await held.enter_async_context(names_watched(standing, rules, guests, servers))
            await held.enter_async_context(recorded(standing, request.refusals if policy else None))
            await held.enter_async_context(controlled(request.control_descriptor, standing, line.isolate))
            room = anyio.Semaphore(splice.AT_ONCE)
            ways = [(listener, partial(_reached, line, place.address, port), room) for listener, port in doors]
            await held.enter_async_context(beside(*(partial(splice.serve, *way) for way in ways)))
            yield Attachment(
                cables=(Cable(netdev=f"tap,fd={place.tap},vhost=off", descriptors=(place.tap, place.lifeline)),),
                record=NetworkRecord(
                    backend=self.name,
                    address=door.address,
                    ssh_port=door.ssh_port,
                    guest_address=str(place.address),
                ),
                lost=partial(_lost, place, rules),
                notes=tuple(note for note in (door.note, _moved(request, place)) if note),
                filter_state=partial(state_of, standing),
            )


def _forbidden() -> Lack | None:
    if os.geteuid() == 0:
        return None
    for setting, value, command in _FORBIDDEN:
        try:
            told = Path("/proc/sys", setting).read_text().strip()
        except OSError:
            continue  # this kernel knows no such limit
        if told == value:
            return Lack(reason=f"this system forbids ordinary users namespaces of their own ({setting})", hint=command)
    return None


def _without_taps() -> Lack | None:
    if not links.TUN.exists():
        return Lack(reason=f"{links.TUN} does not exist", hint="sudo modprobe tun")
    if not os.access(links.TUN, os.R_OK | os.W_OK):
        return Lack(reason=f"this user may not open {links.TUN}", hint=f"sudo chmod 0666 {links.TUN}")
    return None


def _doors(door: Doorway, request: AttachRequest, policy: Policy | None) -> list[tuple[str, int, int]]:
    """Address and port of each door in the host's network, and the guest's port that it leads to.

    The VM's own address is for this host only; exposed ports are for everybody who reaches this host.
    """
    own = [(door.address, forward.port, forward.guest_port) for forward in door.forwards(request.forwards)]
    exposed = policy.expose if policy else ()
    return [*own, *((EVERYWHERE, one.port, one.guest_port) for one in exposed)]


async def _reached(line: Line, address: IPv4Address, port: int) -> socket.socket:
    """A connection to a port of the guest. Raises OSError."""
    return await splice.connected(address, port, await line.new_socket())


def _moved(request: AttachRequest, place: Place) -> str | None:
    """What a resumed guest has to be told, which believes to have another address."""
    former = request.keep and request.keep.guest_address
    if not former or former == str(place.address):
        return None
    return f"the guest's old address {former} is not free: it has to ask for {place.address}, its new one, by DHCP"


async def _lost(place: Place, rules: Rules) -> NetworkLost:
    """Whichever ends first: the network, or the rules of this VM, without which it is mute."""
    loss: NetworkLost | None = None
    async with anyio.create_task_group() as tasks:

        async def first(wait: Callable[[], Awaitable[NetworkLost]]) -> None:
            nonlocal loss
            loss = await wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(first, rules.lost)
        tasks.start_soon(first, partial(_network_lost, place))
    assert loss is not None
    return loss


async def _network_lost(place: Place) -> NetworkLost:
    reason = await place.ended()
    return NetworkLost(
        "the shared network of this user's VMs ended" + (f": {reason}" if reason else ""),
        "the guest has no network any more: run the VM again",
    )
