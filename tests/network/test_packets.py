"""Frames of every kind from a VM, and where they are heard: the table that Softnet's policy is defined by."""

from __future__ import annotations

import pytest

from network_lab import GATEWAY, GATEWAY_MAC, HOST_ON_LAN, VM_ADDRESS, VM_MAC, done, laid_out, syn_frame, udp_frame
from raw_frames import ARP, BROADCAST, ICMP, IPV4, IPV6, UDP, VLAN, arp, ethernet, ipv4, ping, udp
from tartlet.network.policy.policy import Policy

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root]
OWN, OTHER = VM_ADDRESS
OWN_MAC, OTHER_MAC = VM_MAC
NOWHERE, HOST, FORWARDED, ROUND = set[str](), {"bridge"}, {"bridge", "uplink"}, {"bridge", "neighbour"}


def from_vm(name: str, source: str, destination: str, ports: tuple[int, int], *, mac: str = OWN_MAC) -> list[bytes]:
    data = udp(*ports, f"<{name}>".encode())
    to = BROADCAST if destination == "255.255.255.255" else GATEWAY_MAC
    return [ethernet(to, mac, IPV4, ipv4(source, destination, UDP, data))]


def arps(
    name: str,
    *,
    inner: str = OWN_MAC,
    says: str = OWN,
    operation: int = 1,
    hardware: int = 1,
    lengths: tuple[int, int] = (6, 4),
) -> list[bytes]:
    body = arp(inner, says, GATEWAY, operation=operation, hardware=hardware, lengths=lengths)
    return [ethernet(BROADCAST, OWN_MAC, ARP, body + f"<{name}>".encode())]


def in_fragments(name: str, destination: str) -> list[bytes]:
    data = f"<{name}>".encode().ljust(64, b".")
    whole = udp(5555, 4444, data * 3)
    pieces = [(0, whole[:72], True), (72, whole[72:144], True), (144, whole[144:], False)]
    return [
        ethernet(GATEWAY_MAC, OWN_MAC, IPV4, ipv4(OWN, destination, UDP, piece, offset=offset, more=more))
        for offset, piece, more in pieces
    ]


def _destinations() -> dict[str, tuple[list[bytes], set[str]]]:
    cases: dict[str, tuple[list[bytes], set[str]]] = {}
    expected = {
        "8.8.8.8": FORWARDED, "192.0.0.9": FORWARDED, "192.0.0.10": FORWARDED, "11.0.0.1": FORWARDED,
        "172.32.0.1": FORWARDED, "198.20.0.1": FORWARDED, GATEWAY: HOST, "224.0.0.251": HOST,
        "10.0.0.5": NOWHERE, "172.16.5.5": NOWHERE, "192.168.0.10": NOWHERE, HOST_ON_LAN: NOWHERE,
        "100.64.0.1": NOWHERE, "169.254.169.254": NOWHERE, "127.0.0.1": NOWHERE, "0.0.0.1": NOWHERE,
        "192.0.0.8": NOWHERE, "192.0.2.1": NOWHERE, "198.51.100.1": NOWHERE, "203.0.113.1": NOWHERE,
        "198.18.0.1": NOWHERE, "240.0.0.1": NOWHERE, "192.168.64.255": NOWHERE, "255.255.255.255": NOWHERE,
        OTHER: NOWHERE,
    }  # fmt: skip
    for address, places in expected.items():
        cases[f"to {address}"] = ([udp_frame(f"to {address}", address)], places)
    return cases


def _frames() -> dict[str, tuple[list[bytes], set[str]]]:
    """Under the default policy: a name, the frames, and where they are heard."""
    made = {
        "syn to 1.1.1.1": ([syn_frame("syn to 1.1.1.1", "1.1.1.1", 443)], FORWARDED),
        "syn to the gateway": ([syn_frame("syn to the gateway", GATEWAY, 22)], HOST),
        "dns": ([udp_frame("dns", GATEWAY, port=53)], HOST),
        "ping": (
            [ethernet(GATEWAY_MAC, OWN_MAC, IPV4, ipv4(OWN, "8.8.8.8", ICMP, ping(b"<ping>")))],
            FORWARDED,
        ),
        "neighbour": ([udp_frame("neighbour", OTHER, to=OTHER_MAC)], NOWHERE),
        "outside by the neighbour": ([udp_frame("outside by the neighbour", "8.8.8.8", to=OTHER_MAC)], NOWHERE),
        "fragments": (in_fragments("fragments", "8.8.8.8"), FORWARDED),
        "fragments private": (in_fragments("fragments private", "10.0.0.5"), NOWHERE),
    }  # fmt: skip
    for mac in ("02:00:00:00:00:77", OTHER_MAC, GATEWAY_MAC):
        made[f"mac {mac}"] = (from_vm(f"mac {mac}", OWN, "8.8.8.8", (1, 2), mac=mac), NOWHERE)
    for source in (OTHER, "5.5.5.5", "0.0.0.0", GATEWAY):
        made[f"from {source}"] = (from_vm(f"from {source}", source, "8.8.8.8", (1, 2)), NOWHERE)
    datagrams = {
        "discover": ("0.0.0.0", "255.255.255.255", (68, 67), HOST),
        "renew": (OWN, GATEWAY, (68, 67), HOST),
        "rebind": (OWN, "255.255.255.255", (68, 67), HOST),
        "rebind from elsewhere": ("192.168.64.77", "255.255.255.255", (68, 67), NOWHERE),
        "rogue server": (OWN, "255.255.255.255", (67, 68), NOWHERE),
        "68 to 4444": ("0.0.0.0", "255.255.255.255", (68, 4444), NOWHERE),
        "no address to the outside": ("0.0.0.0", "8.8.8.8", (68, 67), NOWHERE),
    }
    for name, (source, destination, ports, places) in datagrams.items():
        made[name] = (from_vm(name, source, destination, ports), places)
    made |= {
        "arp": (arps("arp"), HOST),
        "arp gratuitous": (arps("arp gratuitous", operation=2), HOST),
        "arp probe": (arps("arp probe", says="0.0.0.0"), HOST),
        "arp as gateway": (arps("arp as gateway", says=GATEWAY, operation=2), NOWHERE),
        "arp as neighbour": (arps("arp as neighbour", says=OTHER, operation=2), NOWHERE),
        "arp other inner mac": (arps("arp other inner mac", inner=OTHER_MAC), NOWHERE),
        "arp opcode 3": (arps("arp opcode 3", operation=3), NOWHERE),
        "arp hardware 6": (arps("arp hardware 6", hardware=6), NOWHERE),
        "arp lengths": (arps("arp lengths", lengths=(8, 4)), NOWHERE),
        "arp plen": (arps("arp plen", lengths=(6, 16)), NOWHERE),
    }
    inner = ipv4(OWN, "8.8.8.8", UDP, udp(1, 2, b"<tagged><tag 0>"))
    odd = {
        "ipv6": (GATEWAY_MAC, IPV6, b"\x60" + bytes(39) + b"<ipv6>"),
        "tagged": (GATEWAY_MAC, VLAN, b"\x00\x05\x08\x00" + inner),
        "tag 0": (GATEWAY_MAC, VLAN, b"\x00\x00\x08\x00" + inner),
        "own type": (GATEWAY_MAC, 0x88B5, b"<own type>"),
        "bpdu": ("01:80:c2:00:00:00", 0x88B5, b"<bpdu>"),
        "broadcast own type": (BROADCAST, 0x88B5, b"<broadcast own type>"),
    }
    for name, (to, kind, payload) in odd.items():
        made[name] = ([ethernet(to, OWN_MAC, kind, payload)], NOWHERE)
    routed = bytes([131, 7, 4, 8, 8, 4, 4, 0])
    made["loose source route"] = (
        [
            ethernet(
                GATEWAY_MAC,
                OWN_MAC,
                IPV4,
                ipv4(OWN, "8.8.8.8", UDP, udp(1, 2, b"<loose source route>"), options=routed),
            )
        ],
        NOWHERE,
    )
    return made


async def test_the_default_policy() -> None:
    cases = _destinations() | _frames()
    async with laid_out(Policy(), Policy()) as lab:
        found = lab.places({name: frames for name, (frames, _) in cases.items()})
    assert found == {name: places for name, (_, places) in cases.items()}


async def test_forwarded_packets_leave_with_the_hosts_address() -> None:
    async with laid_out(Policy(), Policy()) as lab:
        lab.sent_by[0].send(udp_frame("who", "8.8.8.8"))
        uplink = lab.heard_at["uplink"]
        uplink.settimeout(5)
        while b"<who>" not in (frame := uplink.recv(2048)):
            pass
    assert frame[26:30] == bytes(int(octet) for octet in HOST_ON_LAN.split("."))


RULES: list[tuple[str | None, str | None, dict[str, set[str]]]] = [
    ("192.168.0.0/24", None,
     {"192.168.0.10": FORWARDED, "10.0.0.5": NOWHERE, OTHER: NOWHERE, GATEWAY: HOST, HOST_ON_LAN: HOST}),
    ("33.33.33.33/32", "33.33.33.0/24", {"33.33.33.32": NOWHERE, "33.33.33.33": FORWARDED, "33.33.33.34": NOWHERE}),
    ("66.66.0.0/16", "66.66.0.0/16", {"66.66.66.66": NOWHERE}),
    ("@host", "0.0.0.0/0", {"8.8.8.8": NOWHERE, GATEWAY: HOST}),
    (None, "0.0.0.0/0", {GATEWAY: NOWHERE, "8.8.8.8": NOWHERE}),
    (None, "@host", {GATEWAY: NOWHERE, "8.8.8.8": FORWARDED}),
    ("@host", "192.168.64.1/32", {GATEWAY: NOWHERE}),
    ("10.0.0.0/8,10.1.2.3/32", "10.1.0.0/16", {"10.0.0.5": FORWARDED, "10.1.2.3": FORWARDED, "10.1.9.9": NOWHERE}),
    ("10.9.9.9/8", None, {"10.0.0.5": FORWARDED}),
    ("10.0.0.0/8:4444", "10.1.0.0/16,8.0.0.0/8:4440-4444",
     {"10.1.0.5": FORWARDED, "8.8.8.8": NOWHERE, "1.1.1.1": FORWARDED}),
]  # fmt: skip


async def test_rules() -> None:
    async with laid_out(Policy(), Policy()) as lab:
        for allow, block, expected in RULES:
            await lab.apply(Policy.parse(allow, block), Policy())
            frames = {address: [udp_frame(address, address)] for address in expected}
            frames["renew"] = from_vm("renew", OWN, GATEWAY, (68, 67))
            frames["discover"] = from_vm("discover", "0.0.0.0", "255.255.255.255", (68, 67))
            assert lab.places(frames) == {**expected, "renew": HOST, "discover": HOST}, (allow, block)


async def test_two_vms_that_may_reach_everything_see_each_other() -> None:
    everything = Policy.parse("0.0.0.0/0")
    expected = {
        "vm": {"neighbour"}, "arp": ROUND, "10.0.0.5": FORWARDED, "169.254.169.254": FORWARDED, "spoofed": NOWHERE,
        "poison": NOWHERE,
    }  # fmt: skip
    frames = {
        "vm": [udp_frame("vm", OTHER, to=OTHER_MAC)],
        "arp": arps("arp"),
        "10.0.0.5": [udp_frame("10.0.0.5", "10.0.0.5")],
        "169.254.169.254": [udp_frame("169.254.169.254", "169.254.169.254")],
        "spoofed": from_vm("spoofed", OWN, "8.8.8.8", (1, 2), mac=OTHER_MAC),
        "poison": arps("poison", says=GATEWAY, operation=2),
    }
    async with laid_out(everything, everything) as lab:
        assert lab.places(frames) == expected
        await lab.apply(everything, Policy())
        assert lab.places({"vm": frames["vm"]}) == {"vm": {"neighbour"}}
        await lab.apply(Policy(), everything)
        assert lab.places({"vm": frames["vm"]}) == {"vm": NOWHERE}


async def test_without_a_policy_a_vm_reaches_everything_under_its_own_name_only() -> None:
    frames = {
        "10.0.0.5": [udp_frame("10.0.0.5", "10.0.0.5")],
        "8.8.8.8": [udp_frame("8.8.8.8", "8.8.8.8")],
        "spoofed": from_vm("spoofed", OTHER, "8.8.8.8", (1, 2)),
        "poison": arps("poison", says=GATEWAY, operation=2),
        "vm": [udp_frame("vm", OTHER, to=OTHER_MAC)],
    }
    expected = {"10.0.0.5": FORWARDED, "8.8.8.8": FORWARDED, "spoofed": NOWHERE, "poison": NOWHERE, "vm": NOWHERE}
    async with laid_out(None, None) as lab:
        assert lab.places(frames) == expected


async def test_a_vm_is_delivered_arp_and_ipv4_only() -> None:
    frames = {
        "ipv4": ethernet(OTHER_MAC, GATEWAY_MAC, IPV4, ipv4("10.0.0.5", OTHER, UDP, udp(1, 2, b"<ipv4>"))),
        "arp": ethernet(BROADCAST, GATEWAY_MAC, ARP, arp(GATEWAY_MAC, GATEWAY, OTHER) + b"<arp>"),
        "ipv6": ethernet(OTHER_MAC, GATEWAY_MAC, IPV6, b"\x60" + bytes(39) + b"<ipv6>"),
        "own type": ethernet(BROADCAST, GATEWAY_MAC, 0x88B5, b"<own type>"),
    }
    async with laid_out(Policy(), Policy()) as lab:
        for frame in frames.values():
            lab.heard_at["bridge"].send(frame)
        heard = lab.places({name: [] for name in frames})
        assert {name for name, places in heard.items() if "neighbour" in places} == {"ipv4", "arp"}


async def test_a_vm_without_a_table_is_mute() -> None:
    async with laid_out(None, None) as lab:
        assert lab.places({"8.8.8.8": [udp_frame("8.8.8.8", "8.8.8.8")]}) == {"8.8.8.8": FORWARDED}
        done(lab.host, "ip link set tartv0 name tartv7")
        assert lab.places({"8.8.8.8": [udp_frame("8.8.8.8", "8.8.8.8")], "arp": arps("arp")}) == {
            "8.8.8.8": NOWHERE,
            "arp": NOWHERE,
        }
