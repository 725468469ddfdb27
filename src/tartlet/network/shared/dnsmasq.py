"""DHCP and DNS for one bridge by the program dnsmasq: every VM's address is reserved by its MAC address beforehand.

Client identifiers are ignored, so a guest that sends one of its own is known by its MAC address like any other.
Formats: dnsmasq(8); the packet that gives a lease back: RFC 2131.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tartlet.errors import ToolMissing
from tartlet.host.lifeline import tied

DOMAIN = "tart.internal"
HINT = "install it: apt install dnsmasq-base"
_MAGIC = bytes([99, 130, 83, 99])
_RELEASE = 7
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_SERVER_PORT = 67
_SO_BINDTODEVICE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """An address that a guest with this MAC address gets, and nobody else."""

    mac: str
    address: IPv4Address
    name: str
    """The VM's name; guests can look it up where it is a valid host name."""
    seconds: int
    """How long the lease is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A bridge that is served."""

    bridge: str
    network: IPv4Network
    folder: Path
    """Where the server's files are."""
    routed: bool
    """Whether guests are told a router; without one they reach the bridge's network only."""
    upstream: tuple[IPv4Address, ...] | Path = ()
    """Where names are asked for that are not of this network: servers, or a file that tells some (resolv.conf(5)).

    Without any, guests are told no name server.
    """
    hides_clients: bool = False
    """Whether guests see their gateway as the client of exposed ports."""

    @property
    def gateway(self) -> IPv4Address:
        return self.network[1]


def shield_from_reloads() -> None:
    """Ignore SIGHUP in this process, which will start servers: they would die of one that comes before they heed it.

    They inherit this, and then read the reservations anyway. To be called in the main thread.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Dnsmasq:
    """The server of one bridge, and the reservations it reads; see `shield_from_reloads`."""

    def __init__(self, served: Served) -> None:
        """Write its configuration. Raises OSError."""
        self._served = served
        self._process: subprocess.Popen[bytes] | None = None
        self._hosts = served.folder / f"{served.bridge}.hosts"
        self._hosts.touch()
        self._config = served.folder / f"{served.bridge}.conf"
        self._config.write_text(configuration(served, self._hosts))

    def start(self, says: int) -> subprocess.Popen[bytes]:
        """Start it; it ends with this thread. `says` takes what it complains of. Raises ToolMissing."""
        program = shutil.which("dnsmasq")
        if program is None:
            raise ToolMissing("dnsmasq", HINT)
        words = tied([program, "--keep-in-foreground", "--log-facility=-", f"--conf-file={self._config}"])
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=says)
        return self._process

    def reserve(self, reservations: Iterable[Reservation]) -> None:
        """Let these be all reservations from now on."""
        first = dict[str, Reservation]()  # two users may have a VM of one name: the first is found by it
        for one in (reservations := list(reservations)):
            first.setdefault(one.name.lower(), one)
        lines = [line_for(one, named=first[one.name.lower()] is one) for one in reservations]
        self._hosts.write_text("".join(f"{line}\n" for line in lines))
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def forget(self, mac: str, address: IPv4Address) -> None:
        """End the lease that a former VM has on an address, so that another can have it. Raises OSError."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaking:
            speaking.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, self._served.bridge.encode())
            gateway = self._served.gateway
            speaking.sendto(release_packet(mac, address, gateway), (str(gateway), _SERVER_PORT))


def configuration(served: Served, hosts: Path) -> str:
    """The server's whole configuration; it reads nothing else of the host's."""
    network, gateway = served.network, served.gateway
    if isinstance(served.upstream, Path):
        upstream = [f"resolv-file={served.upstream}"]
    else:
        upstream = ["no-resolv", "no-poll", *(f"server={server}" for server in served.upstream)]
    options = [
        f"router,{gateway}" if served.routed else "router",
        f"dns-server,{gateway}" if served.upstream else "dns-server",
    ]
    lines = [
        "port=53", f"interface={served.bridge}", "except-interface=lo", "bind-interfaces",
        "user=root", "group=", "pid-file=", "no-hosts", *upstream,
        "dhcp-authoritative", "dhcp-ignore-clid", "no-ping", "quiet-dhcp",
        f"dhcp-range={network.network_address},static,{network.netmask}",
        f"dhcp-hostsfile={hosts}", f"dhcp-leasefile={served.folder / served.bridge}.leases",
        *(f"dhcp-option=option:{option}" for option in options),
        f"domain={DOMAIN}", f"local=/{DOMAIN}/",
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


def line_for(reservation: Reservation, *, named: bool = True) -> str:
    """One line of the reservations: MAC, address, name where it can be one, lease time."""
    label = reservation.name.lower()
    name = [label] if named and re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) else []
    return ",".join([reservation.mac, str(reservation.address), *name, f"{reservation.seconds}s"])


def release_packet(mac: str, address: IPv4Address, server: IPv4Address) -> bytes:
    """A DHCPRELEASE as the former holder of the lease would send it."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    none = bytes(4)
    head = _BOOTP.pack(1, 1, 6, 0, 0, 0, 0, address.packed, none, none, none, hardware, b"", b"")
    options = bytes([53, 1, _RELEASE, 54, 4]) + server.packed + b"\xff"
    return head + _MAGIC + options
