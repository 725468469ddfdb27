"""An address of the host's loopback network for each VM whose guest has none that the host could reach.

Linux answers on all of 127.0.0.0/8 without any set-up, so each VM gets an address of its own there, and
`ssh admin@$(tart ip VM)` needs no port when port 22 of that address can be had. A Mac has 127.0.0.1 only: its VMs
share that and differ by port.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import socket
import sys
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import UserError
from tartlet.network.attachment import SSH, Forward

log = logging.getLogger(__name__)

ALTERNATIVE_SSH_PORT = 2222
_SHARED = "127.0.0.1"
_ADDRESSES = 1 << 16
_PROBES = 256
_FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class NoFreeAddress(UserError):
    """Every address that was tried belongs to another VM."""

    def __init__(self) -> None:
        super().__init__(f"no free loopback address for the VM: {_PROBES} were tried and belong to running VMs")
        self.hint = "stop a VM first"


class PortTaken(UserError):
    """Another program listens where a port of the guest should appear."""

    def __init__(self, address: str, port: int, cause: OSError) -> None:
        super().__init__(f"cannot forward port {port} of {address}: {cause.strerror}")
        self.hint = f"choose another port, or stop the program that listens there: ss -ltnp 'sport = :{port}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorway:
    """Where the host reaches one guest."""

    address: str
    ssh_port: int
    note: str | None = None
    """What the user has to know: why SSH is not on port 22."""

    def forwards(self, more: Iterable[Forward]) -> list[Forward]:
        """SSH and what else was asked for."""
        return [Forward(port=self.ssh_port, guest_port=SSH), *more]


def addresses_of(mac: str) -> Iterator[str]:
    """The addresses for a VM with this MAC as they are tried: 127.64.a.b by a hash, then the ones after it."""
    digest = hashlib.sha256(bytes(int(octet, 16) for octet in mac.split(":"))).digest()
    start = int.from_bytes(digest[:2], "big")
    for step in range(_PROBES):
        high, low = divmod((start + step) % _ADDRESSES, 256)
        yield f"127.64.{high}.{low}"


@contextmanager
def doorway(mac: str, *, preferred: str | None = None, more: Collection[Forward] = ()) -> Generator[Doorway]:
    """An address that no other VM has for the length of the block, and the port on it that will be SSH.

    Raises NoFreeAddress, PortTaken (one of `more`).
    """
    with _own_address(mac, preferred) as address:
        for forward in more:
            if cause := _obstacle(address, forward.port):
                raise PortTaken(address, forward.port, cause)
        yield _with_ssh(address, {forward.port for forward in more})


@contextmanager
def _own_address(mac: str, preferred: str | None) -> Generator[str]:
    if sys.platform != "linux":
        yield _SHARED
        return
    first = [preferred] if preferred and preferred.startswith("127.64.") else []
    for address in (*first, *addresses_of(mac)):
        if claim := _claimed(address):
            with claim:
                yield address
            return
    raise NoFreeAddress


def _claimed(address: str) -> socket.socket | None:
    """A socket whose name says that the address is ours; None when somebody else's says so.

    The name is abstract: it belongs to the network namespace as the address does, is no file, and is gone when this
    process is, however it ends.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0tartlet/address/{address}")
    except OSError as exc:
        claim.close()
        if exc.errno != errno.EADDRINUSE:
            raise
        log.debug("%s belongs to another VM", address)
        return None
    return claim


def _with_ssh(address: str, taken: Collection[int]) -> Doorway:
    first = _obstacle(address, SSH)
    if first is None and SSH not in taken:
        return Doorway(address=address, ssh_port=SSH)
    spare = ALTERNATIVE_SSH_PORT
    port = spare if spare not in taken and not _obstacle(address, spare) else _any_port(address)
    why = f", because {_in_words(first)}" if first else ""
    return Doorway(
        address=address,
        ssh_port=port,
        note=f"SSH of the guest is on port {port} of {address}{why}: ssh -p {port} admin@{address}",
    )


def _obstacle(address: str, port: int) -> OSError | None:
    """What keeps a server from listening there; None when nothing does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: old connections do not count
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as exc:
            return exc
    return None


def _any_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _in_words(obstacle: OSError) -> str:
    if obstacle.errno == errno.EADDRINUSE:
        return "a server of this host has port 22 on all addresses"
    if obstacle.errno in (errno.EACCES, errno.EPERM):
        try:
            first = _FIRST_UNPRIVILEGED.read_text().strip()
        except OSError:
            first = "1024"
        return f"ports below {first} need rights that this user lacks (sysctl net.ipv4.ip_unprivileged_port_start=22)"
    return f"port 22 cannot be had: {obstacle.strerror}"
