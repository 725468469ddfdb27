"""A host, machines outside and two VMs, each a network namespace: cables instead of taps, filters as in earnest."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from namespaces import Namespace, entered, namespace
from raw_frames import IPV4, TCP, UDP, ethernet, ipv4, tcp, udp
from tartlet.network.policy.policy import Policy
from tartlet.network.rules.filter import Filter, filtered
from tartlet.network.rules.guard import base_table
from tartlet.network.rules.nft import kernel_rules
from tartlet.network.rules.plug import Plug

GATEWAY, HOST_ON_LAN = "192.168.64.1", "192.168.0.2"
GATEWAY_MAC = "02:00:00:00:00:fe"
SUBNET = IPv4Network("192.168.64.0/24")
OUTSIDE = ("8.8.8.8", "1.1.1.1", "10.0.0.5", "192.168.0.10")
VM_MAC = ("02:00:00:00:00:01", "02:00:00:00:00:02")
VM_ADDRESS = ("192.168.64.11", "192.168.64.12")
PLUGS = tuple(
    Plug(
        tap=f"tartv{number}",
        bridge="tart0",
        mac=VM_MAC[number],
        address=IPv4Address(VM_ADDRESS[number]),
        gateway=IPv4Address(GATEWAY),
    )
    for number in (0, 1)
)
_ALL = 3  # ETH_P_ALL
_QUIET = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The wires. `sent_by` are raw ends in the VMs, `heard_at` ears on the host's bridge and uplink, and in VM 2."""

    host: Namespace
    outside: Namespace
    vms: tuple[Namespace, Namespace]
    sent_by: tuple[socket.socket, socket.socket]
    heard_at: dict[str, socket.socket]
    filters: list[Filter] = field(default_factory=list[Filter])

    @contextmanager
    def serving(self, inside: Namespace, port: int, address: str = "0.0.0.0") -> Generator[socket.socket]:
        """A server in one of the namespaces; whoever can connect is in its queue."""
        with entered(inside), socket.create_server((address, port), backlog=64) as server:
            server.settimeout(3)
            yield server

    def reached(self, inside: Namespace, address: str, port: int, *, source: str | None = None) -> bool:
        """Whether a client there, at `source`, gets a connection."""
        with self.dialled(inside, address, port, source=source) as client:
            return client is not None

    @contextmanager
    def dialled(
        self, inside: Namespace, address: str, port: int, *, source: str | None = None
    ) -> Generator[socket.socket | None]:
        """A client there, connected; None when it is not in 0.4 s."""
        with entered(inside):
            client = socket.socket()
        with client:
            client.settimeout(0.4)
            try:
                if source:
                    client.bind((source, 0))
                client.connect((address, port))
            except OSError:
                yield None
            else:
                yield client

    async def apply(self, *policies: Policy | None) -> None:
        """Give each VM its policy."""
        for one, policy, plug in zip(self.filters, policies, PLUGS, strict=True):
            await one.replace(policy)
            isolated = "off" if policy is not None and not policy.isolated else "on"
            done(self.host, f"bridge link set dev {plug.tap} isolated {isolated}")

    def places(self, frames: dict[str, list[bytes]], sender: int = 0) -> dict[str, set[str]]:
        """Where each named group of frames is heard when a VM sends it; each must contain its own name as bytes."""
        found: dict[str, set[str]] = {name: set() for name in frames}
        for frame in (frame for group in frames.values() for frame in group):
            self.sent_by[sender].send(frame)
        for place, frame in _heard(self.heard_at):
            for name, places in found.items():
                if f"<{name}>".encode() in frame:
                    places.add(place)
        return found


@asynccontextmanager
async def laid_out(
    *policies: Policy | None, host_only: bool = False, hides_clients: bool = False
) -> AsyncGenerator[Lab]:
    """The lab for the length of the block, with a policy for each VM."""
    with wires() as lab:
        async with kernel_rules(lab.host.words()) as base, kernel_rules(lab.host.words()) as rules:
            await base.load(base_table("tart0", SUBNET, host_only=host_only, hides_clients=hides_clients))
            first, second = policies
            async with filtered(rules, PLUGS[0], first) as one, filtered(rules, PLUGS[1], second) as two:
                lab.filters.extend([one, two])
                await lab.apply(first, second)
                yield lab


@contextmanager
def wires() -> Generator[Lab]:
    """The lab without any rules."""
    with ExitStack() as held:
        host, outside, *vms = (held.enter_context(namespace()) for _ in range(4))
        done(outside, f"{_QUIET}; " + "; ".join(f"ip addr add {address}/32 dev lo" for address in OUTSIDE))
        done(host, _host_script(outside, vms))
        done(
            outside, "ip link set up1 up; ip addr add 192.168.0.1/32 dev up1; ip link set up1 address 02:00:00:00:01:01"
        )
        done(
            outside,
            "ip route add 192.168.0.2/32 dev up1; ip neigh add 192.168.0.2 lladdr 02:00:00:00:01:02 dev up1",
        )
        for number, vm in enumerate(vms):
            done(vm, _vm_script(number))
        ears = {"bridge": (host, "tart0"), "uplink": (host, "up0"), "neighbour": (vms[1], "eth0")}
        yield Lab(
            host=host,
            outside=outside,
            vms=(vms[0], vms[1]),
            sent_by=(held.enter_context(_raw(vms[0], "eth0")), held.enter_context(_raw(vms[1], "eth0"))),
            heard_at={place: held.enter_context(_raw(*where)) for place, where in ears.items()},
        )


def done(inside: Namespace, script: str) -> None:
    """Run a shell script that has to succeed."""
    result = inside.run("sh", "-ec", script)
    assert result.returncode == 0, result.stderr


def udp_frame(name: str, destination: str, *, to: str = GATEWAY_MAC, port: int = 4444) -> bytes:
    """VM 1 sends a datagram."""
    packet = ipv4(VM_ADDRESS[0], destination, UDP, udp(5555, port, f"<{name}>".encode()))
    return ethernet(to, VM_MAC[0], IPV4, packet)


def syn_frame(name: str, destination: str, port: int) -> bytes:
    """VM 1 opens a connection."""
    segment = tcp(VM_ADDRESS[0], destination, 6000, port, f"<{name}>".encode())
    return ethernet(GATEWAY_MAC, VM_MAC[0], IPV4, ipv4(VM_ADDRESS[0], destination, TCP, segment))


def _host_script(outside: Namespace, vms: Iterable[Namespace]) -> str:
    lines = [
        _QUIET,
        "ip link add tart0 type bridge forward_delay 0",
        f"ip link set tart0 address {GATEWAY_MAC} up",
        f"ip addr add {GATEWAY}/24 dev tart0",
        f"ip link add up0 type veth peer name up1 netns {outside.holder}",
        f"ip link set up0 address 02:00:00:00:01:02 up; ip addr add {HOST_ON_LAN}/24 dev up0",
        "ip route add default via 192.168.0.1",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ]
    for number, vm in enumerate(vms):
        tap, mac, address = f"tartv{number}", VM_MAC[number], VM_ADDRESS[number]
        lines += [
            f"ip link add {tap} type veth peer name eth0 netns {vm.holder}",
            f"ip link set {tap} master tart0 up; bridge link set dev {tap} isolated on learning off",
            f"bridge fdb add {mac} dev {tap} master static",
            f"ip neigh add {address} lladdr {mac} dev tart0",
        ]
    lines += [f"ip neigh add {address} lladdr 02:00:00:00:01:01 dev up0" for address in ("192.168.0.1", "192.168.0.10")]
    return "\n".join(lines)


def _vm_script(number: int) -> str:
    return (
        f"{_QUIET}; ip link set eth0 address {VM_MAC[number]} up; ip addr add {VM_ADDRESS[number]}/24 dev eth0; "
        f"ip route add default via {GATEWAY}; ip neigh add {GATEWAY} lladdr {GATEWAY_MAC} dev eth0"
    )


@contextmanager
def _raw(inside: Namespace, interface: str) -> Generator[socket.socket]:
    with entered(inside):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        raw.bind((interface, _ALL))
        yield raw


def _heard(ears: dict[str, socket.socket], quiet: float = 0.3) -> Generator[tuple[str, bytes]]:
    """Everything that arrives until nothing has come for `quiet` seconds. Frames take well below a millisecond."""
    names = {ear.fileno(): place for place, ear in ears.items()}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ready, _, _ = select.select(list(ears.values()), [], [], quiet)
        if not ready:
            return
        for ear in ready:
            yield names[ear.fileno()], ear.recv(65536)
