"""From a VM and one run's options to its network."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from tartlet.hypervisor.devices import NetworkCard
from tartlet.network import record
from tartlet.network.attachment import Attachment, AttachRequest, Forward, NetworkMode, card_mac
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.model import VmConfig, VmState

SCREEN_SHARING = 5900
"""The TCP port of a guest's own VNC server, for `--vnc`."""

_ALONE = ("passt", "slirp")
"""Backends that give each guest a network of its own, where all may have one address."""


@asynccontextmanager
async def plugged_in(
    vm: VmFolder, config: VmConfig, options: RunOptions, *, forked: bool = False
) -> AsyncGenerator[Attachment]:
    """The network that was asked for, for the length of the block. Raises ModeUnavailable, PortTaken, NoFreeAddress.

    Raises PreferencesBroken and MacTaken too.
    """
    from tartlet.network import preferences
    from tartlet.network.backend import attached, preferred

    backends = preferred(preferences.read().backend)
    async with attached(request_for(vm, config, options, forked=forked), backends) as attachment:
        yield attachment


def request_for(vm: VmFolder, config: VmConfig, options: RunOptions, *, forked: bool = False) -> AttachRequest:
    """What to ask of a network backend."""
    return AttachRequest(
        vm=vm.name,
        mac=config.mac_address,
        mode=_mode(options),
        interfaces=options.net_bridged,
        allow=options.net_softnet_allow,
        block=options.net_softnet_block,
        expose=options.net_softnet_expose,
        control_descriptor=options.net_softnet_control_fd,
        refusals=vm.refusals_log_path,
        forwards=(Forward(port=SCREEN_SHARING, guest_port=SCREEN_SHARING),) if options.vnc else (),
        keep=_former(vm, forked=forked),
    )


def _former(vm: VmFolder, *, forked: bool) -> record.NetworkRecord | None:
    """The network the guest believes to be on. A fork is on one of the same kind, where it may be alone or not."""
    if vm.state() is VmState.SUSPENDED:
        return record.read(vm.path)
    known = record.read(vm.path) if forked else None
    if known is None:
        return None
    return replace(known, address=None, guest_address=known.guest_address if known.backend in _ALONE else None)


def cards(attachment: Attachment, mac: str) -> list[NetworkCard]:
    """A card for each cable. The first has the VM's MAC address, the others have ones derived from it."""
    return [
        NetworkCard(
            mac=card_mac(mac, index),
            netdev=cable.netdev,
            index=index,
            inherited=cable.descriptors,
            mtu=cable.mtu,
        )
        for index, cable in enumerate(attachment.cables)
    ]


def _mode(options: RunOptions) -> NetworkMode:
    if options.net_bridged:
        return NetworkMode.BRIDGED
    if options.net_softnet:
        return NetworkMode.SOFTNET
    return NetworkMode.HOST if options.net_host else NetworkMode.NAT
