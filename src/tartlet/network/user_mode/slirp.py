"""QEMU's built-in user-mode network: always there, needs nothing, forwards slowly and filters nothing.

The guest's gateway stands for the host's own loopback, and QEMU has no option against that: a guest can connect to
services that the host offers on 127.0.0.1 only. Every attachment says so. Host-only networks use `restrict=on`, which
closes that too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

from tartlet.network.attachment import Attachment, AttachRequest, Cable, Forward, Lack, NetworkMode, nothing_is_lost
from tartlet.network.record import NetworkRecord
from tartlet.network.shared import loopback, subnet
from tartlet.network.shared.subnet import Subnet

_OPEN = "the guest can reach services that listen on this host's 127.0.0.1 only (network backend slirp)"
_CLOSED = "host-only without privileges: the host reaches the guest, the guest reaches nothing by itself"


class Slirp:
    """The network that is a part of QEMU."""

    name = "slirp"
    modes = frozenset({NetworkMode.NAT, NetworkMode.HOST})
    offloads = False

    def lacking(self) -> Lack | None:
        """Nothing: distributions build QEMU with it."""
        return None

    @asynccontextmanager
    async def attach(self, request: AttachRequest) -> AsyncGenerator[Attachment]:
        """Choose addresses for one run. Raises NoFreeAddress, PortTaken."""
        keep = request.keep
        net = subnet.choose(subnet.host_routes(), keep.guest_address if keep else None)
        closed = request.mode is NetworkMode.HOST
        with loopback.doorway(request.mac, preferred=keep.address if keep else None, more=request.forwards) as door:
            netdev = netdev_words(net, door.address, door.forwards(request.forwards), restricted=closed)
            yield Attachment(
                cables=(Cable(netdev=netdev),),
                record=NetworkRecord(
                    backend=self.name,
                    address=door.address,
                    ssh_port=door.ssh_port,
                    guest_address=str(net.guest),
                ),
                lost=nothing_is_lost,
                notes=tuple(note for note in (door.note, _CLOSED if closed else _OPEN) if note),
            )


def netdev_words(net: Subnet, address: str, forwards: Iterable[Forward], *, restricted: bool) -> str:
    """What follows `-netdev` (QEMU's manual, "user"): IPv4 only, one address to give away, ports of `address`."""
    words = [
        "user",
        "ipv6=off",
        f"net={net.network}",
        f"host={net.gateway}",
        f"dns={net.name_server}",
        f"dhcpstart={net.guest}",
        *(f"hostfwd=tcp:{address}:{forward.port}-{net.guest}:{forward.guest_port}" for forward in forwards),
    ]
    return ",".join([*words, "restrict=on"] if restricted else words)
