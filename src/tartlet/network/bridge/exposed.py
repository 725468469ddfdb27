"""Ports of the host that lead to a guest by its own address: who may have which, and that nobody has them already."""

from __future__ import annotations

import socket
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from tartlet.network.attachment import EVERYWHERE
from tartlet.network.bridge.requests import NotAllowed
from tartlet.network.shared.loopback import PortTaken

_LOOPBACK, _LISTENS = f"{int.from_bytes(IPv4Address('127.0.0.1').packed, sys.byteorder):08X}", "0A"
_FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class ExposedPorts:
    """Those of all guests."""

    def __init__(self) -> None:
        self._taken = set[int]()

    @contextmanager
    def taken(self, ports: Iterable[int], owner: int, *, moving: bool) -> Generator[None]:
        """Ports for the length of the block. They are not listened on: the kernel leads packets for them elsewhere.

        A user may have what he could listen on himself. `moving`: the VM runs already, and its supervisor listens on
        127.0.0.1. Raises NotAllowed, PortTaken.
        """
        new = set(ports)
        for port in sorted(new):
            self._check(port, owner)
            _check_listeners(port) if moving else _check_free(port)
        self._taken |= new
        try:
            yield
        finally:
            self._taken -= new

    def _check(self, port: int, owner: int) -> None:
        if owner and port < (first := int(_FIRST_UNPRIVILEGED.read_text())):
            raise NotAllowed(
                f"port {port} cannot be exposed: ports below {first} are for root",
                "expose another one, or sysctl net.ipv4.ip_unprivileged_port_start=" + str(port),
            )
        if port in self._taken:
            raise PortTaken(EVERYWHERE, port, OSError(0, "another VM exposes it"))


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((EVERYWHERE, port))
            probe.listen(1)
        except OSError as exc:
            raise PortTaken(EVERYWHERE, port, exc) from exc


def _check_listeners(port: int) -> None:
    """Whoever listens does so on 127.0.0.1 only (proc(5), /proc/net/tcp)."""
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/thread-self/net", table).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for _, local, _, state, *_ in (row.split() for row in rows):
            if state == _LISTENS and local.endswith(f":{port:04X}") and local != f"{_LOOPBACK}:{port:04X}":
                raise PortTaken(EVERYWHERE, port, OSError(0, "somebody listens there"))
