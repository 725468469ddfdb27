"""The IP address of a VM, waited for."""

from __future__ import annotations

from ipaddress import IPv4Address

import anyio

from tartlet.errors import UserError
from tartlet.network import record
from tartlet.network.lookup.resolve import Resolver, address_of
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmState

_PAUSE = 1.0
"""Seconds between two attempts."""


class NoAddress(UserError):
    """No resolver knows the VM's address."""

    def __init__(self, vm: VmFolder, resolver: Resolver | None, *, running: bool, guest: str) -> None:
        super().__init__(f'no IP address was found for VM "{vm.name}"' + ("" if running else ", is it running?"))
        hints = [] if running else [f"start it first: tart run {vm.name}"]
        if resolver is Resolver.AGENT:
            hints.append("this resolver needs a guest agent that runs inside the VM")
        if resolver is Resolver.ARP and guest == "linux":
            hints.append("not every Linux guest announces itself by ARP; try --resolver=agent")
        if not hints:
            hints.append("wait for the guest to boot: --wait 60")
            if _is_bridged(vm):
                hints.append("a bridged guest has to be heard on its network, or to have an agent (--resolver=agent)")
        self.hint = "; ".join(hints)


async def wait_for_address(vm: VmFolder, resolver: Resolver | None, patience: float) -> IPv4Address:
    """The VM's address, looked up again and again for `patience` seconds; at least once.

    Raises NoAddress, and what a resolver raises that cannot work on this host.
    """
    deadline = anyio.current_time() + patience
    config = vm.config()
    while True:
        running = vm.state() is VmState.RUNNING
        found = await address_of(
            vm.path, config.mac_address, resolver, running=running, ask_agent=(lambda: _ask(vm)) if running else None
        )
        if found is not None:
            return found
        left = deadline - anyio.current_time()
        if left <= 0:
            raise NoAddress(vm, resolver, running=running, guest=config.os)
        await anyio.sleep(min(left, _PAUSE))


def _is_bridged(vm: VmFolder) -> bool:
    known = record.read(vm.path)
    return bool(known and known.interfaces)


async def _ask(vm: VmFolder) -> IPv4Address | None:
    from tartlet.guest.errors import AgentUnavailable
    from tartlet.guest.rpc.channel import connect

    try:
        async with connect(vm.path, _PAUSE) as channel:
            told = await channel.resolve_ip(_PAUSE)
    except AgentUnavailable:
        return None
    return None if told is None else IPv4Address(told)
