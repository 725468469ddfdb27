"""From a VM and one run's options to its network."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tartlet.hypervisor.devices import NetworkCard
from tartlet.network import record
from tartlet.network.attachment import Attachment, AttachRequest, Forward, NetworkMode
from tartlet.vm.folder import VmFolder
from tartlet.vm.model import VmConfig, VmState, mac_numbers
from tartlet.vm.options import RunOptions

SCREEN_SHARING = 5900
"""The TCP port of a guest's own VNC server, for `--vnc`."""


@asynccontextmanager
async def plugged_in(vm: VmFolder, config: VmConfig, options: RunOptions) -> AsyncGenerator[Attachment]:
    """The network that was asked for, for the length of the block. Raises ModeUnavailable, PortTaken, NoFreeAddress.

    Raises PreferencesBroken too.
    """
    from tartlet.network import preferences
    from tartlet.network.backend import attached, preferred

    backends = preferred(preferences.read().backend)
    async with attached(request_for(vm, config, options), backends) as attachment:
        yield attachment


def request_for(vm: VmFolder, config: VmConfig, options: RunOptions) -> AttachRequest:
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
        keep=record.read(vm.path) if vm.state() is VmState.SUSPENDED else None,
    )


def cards(attachment: Attachment, mac: str) -> list[NetworkCard]:
    """A card for each cable. The first has the VM's MAC address, the others have ones derived from it."""
    return [
        NetworkCard(mac=_derived(mac, index), netdev=cable.netdev, index=index, inherited=cable.descriptors)
        for index, cable in enumerate(attachment.cables)
    ]


def _derived(mac: str, index: int) -> str:
    numbers = mac_numbers(mac)
    if not index or numbers is None:
        return mac
    return ":".join(f"{number:02x}" for number in (*numbers[:5], (numbers[5] + index) % 256))


def _mode(options: RunOptions) -> NetworkMode:
    if options.net_bridged:
        return NetworkMode.BRIDGED
    if options.net_softnet:
        return NetworkMode.SOFTNET
    return NetworkMode.HOST if options.net_host else NetworkMode.NAT
