"""Which interfaces of the host a VM can be bridged to, and why not to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tartlet.network.cards.interfaces import HostInterface, InterfaceKind, InterfaceMissing, InterfaceUnfit, found_in
from tartlet.network.shared.links import OUR_MACS

LINKS: list[dict[str, Any]] = [
    {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "link_type": "loopback", "mtu": 65536},
    {"ifname": "eth0", "flags": ["UP"], "link_type": "ether", "mtu": 1500, "altnames": ["enp3s0"], "ifalias": "Office"},
    {"ifname": "eth1", "flags": ["BROADCAST"], "link_type": "ether", "mtu": 1500},
    {"ifname": "eth2", "flags": ["UP"], "link_type": "ether", "mtu": 1500, "master": "br0"},
    {"ifname": "wlan0", "flags": ["UP"], "link_type": "ether", "mtu": 1500},
    {"ifname": "br0", "flags": ["UP"], "link_type": "ether", "mtu": 9000, "linkinfo": {"info_kind": "bridge"}},
    {
        "ifname": "tart0",
        "flags": ["UP"],
        "link_type": "ether",
        "mtu": 1500,
        "address": f"{OUR_MACS}30",
        "linkinfo": {"info_kind": "bridge"},
    },
    {"ifname": "tap3", "flags": ["UP"], "link_type": "ether", "mtu": 1500, "linkinfo": {"info_kind": "tun"}},
    {"ifname": "wg0", "flags": ["UP"], "link_type": "none", "mtu": 1420, "linkinfo": {"info_kind": "wireguard"}},
]
"""As `ip -details -json link` has them, without what nobody looks at."""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A /sys/class/net with one Wi-Fi card."""
    (tmp_path / "wlan0" / "phy80211").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "Office"])
def test_a_card_is_found_by_any_of_its_names(system: Path, name: str) -> None:
    assert found_in(LINKS, name, system) == HostInterface(name="eth0", kind=InterfaceKind.CARD, mtu=1500)


def test_a_bridge_is_found(system: Path) -> None:
    assert found_in(LINKS, "br0", system) == HostInterface(name="br0", kind=InterfaceKind.BRIDGE, mtu=9000)


@pytest.mark.parametrize(
    ("name", "reason", "hint"),
    [
        ("lo", "no Ethernet network", "there are br0, eth0"),
        ("eth1", "it is down", "sudo ip link set eth1 up"),
        ("eth2", "a part of br0", "use --net-bridged=br0"),
        ("wlan0", "access points take packets of one MAC address", "use a cable"),
        ("tap3", "of the kind tun", "there are br0, eth0"),
        ("tart0", "the network that VMs share", "leave the option out"),
        ("wg0", "no Ethernet network", "there are br0, eth0"),
    ],
)
def test_what_does_not_fit_is_told_with_the_reason(system: Path, name: str, reason: str, hint: str) -> None:
    with pytest.raises(InterfaceUnfit, match=reason) as refused:
        found_in(LINKS, name, system)
    assert hint in str(refused.value.hint)
    assert refused.value.exit_code == 64


def test_an_unknown_name_is_told_with_the_list(system: Path) -> None:
    with pytest.raises(InterfaceMissing, match='"eth9"') as refused:
        found_in(LINKS, "eth9", system)
    assert refused.value.hint == "there are br0, eth0"


def test_a_host_without_any_says_so(system: Path) -> None:
    with pytest.raises(InterfaceMissing) as refused:
        found_in(LINKS[:1], "eth0", system)
    assert refused.value.hint == "this host has no interface that a VM can be bridged to"
