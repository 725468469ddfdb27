"""Which address a frame of a guest names: nothing else is believed, and no frame can do harm."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namespaces import Namespace
from tap_guest import BROADCAST, arp_frame, udp_frame
from tartlet.network.cards import ear

MAC, OTHER = bytes.fromhex("7a65e43fbe01"), bytes.fromhex("7a65e43fbe02")
_MAGIC = bytes([99, 130, 83, 99])
DISCOVER, REQUEST, RELEASE = 1, 3, 7


def dhcp_frame(kind: int, *options: bytes, own: str = "0.0.0.0", mac: bytes = MAC, port: int = 67) -> bytes:
    """A client's DHCP packet; `own` is the address it has already."""
    client = IPv4Address(own).packed
    head = bytes([1, 1, 6, 0]) + bytes(8) + client + bytes(12) + mac.ljust(16, b"\0") + bytes(192)
    body = head + _MAGIC + bytes([53, 1, kind]) + b"".join(options) + b"\xff"
    return udp_frame(mac, BROADCAST, own, "255.255.255.255", 68, port, body)


WISH = bytes([50, 4, 192, 0, 2, 7])


@pytest.mark.parametrize(
    ("frame", "address"),
    [
        (arp_frame(MAC, 1, "192.0.2.7", "192.0.2.1"), "192.0.2.7"),
        (arp_frame(MAC, 2, "192.0.2.7", "192.0.2.1"), "192.0.2.7"),
        (arp_frame(MAC, 1, "0.0.0.0", "192.0.2.7"), None),
        (arp_frame(MAC, 1, "169.254.7.7", "169.254.7.7"), None),
        (arp_frame(MAC, 1, "127.0.0.1", "192.0.2.1"), None),
        (arp_frame(MAC, 1, "224.0.0.1", "192.0.2.1"), None),
        (arp_frame(MAC, 1, "192.0.2.7", "192.0.2.1")[:30], None),
        (dhcp_frame(REQUEST, WISH), "192.0.2.7"),
        (dhcp_frame(REQUEST, b"\0\0", bytes([12, 1, 65]), WISH), "192.0.2.7"),
        (dhcp_frame(REQUEST, own="192.0.2.9"), "192.0.2.9"),
        (dhcp_frame(REQUEST, WISH[:1]), None),
        (dhcp_frame(REQUEST, WISH[:4]), None),
        (dhcp_frame(DISCOVER, WISH), None),
        (dhcp_frame(RELEASE, own="192.0.2.9"), None),
        (b"", None),
    ],
)
def test_what_a_frame_names(frame: bytes, address: str | None) -> None:
    assert ear.named_in(frame) == (address and IPv4Address(address))


@given(
    st.sampled_from([arp_frame(MAC, 1, "192.0.2.7", "192.0.2.1"), dhcp_frame(REQUEST, WISH)]), st.binary(), st.data()
)
def test_no_frame_does_harm(frame: bytes, junk: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(frame)))
    ear.named_in(frame[:cut] + junk)
    ear.named_in(frame[:cut] + junk + frame[cut + len(junk) :])


@pytest.mark.needs_root
def test_only_what_this_guest_says_of_itself_is_let_through(inside_private_network: Namespace) -> None:
    wanted = [arp_frame(MAC, 1, "192.0.2.7", "192.0.2.1"), dhcp_frame(REQUEST, WISH), dhcp_frame(DISCOVER)]
    refused = [
        arp_frame(OTHER, 1, "192.0.2.8", "192.0.2.1"),
        arp_frame(MAC, 1, "192.0.2.8", "192.0.2.1", inner=OTHER),
        dhcp_frame(REQUEST, WISH, mac=OTHER),
        dhcp_frame(REQUEST, WISH, port=53),
        udp_frame(MAC, BROADCAST, "192.0.2.7", "192.0.2.1", 5555, 5555, b"hello"),
        b"\x08" * 60,
        bytes(14),
    ]
    assert inside_private_network.run("ip", "link", "set", "up1", "up").returncode == 0
    with ear.opened("up0", MAC.hex(":")) as listening, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("up1", 0))
        for frame in [*refused, *wanted]:
            sender.send(frame)
        listening.settimeout(5)
        assert [listening.recv(2048) for _ in wanted] == wanted


@pytest.mark.needs_root
def test_what_an_ear_hears_cannot_be_changed(inside_private_network: Namespace) -> None:
    del inside_private_network
    with ear.opened("up0", MAC.hex(":")) as listening, pytest.raises(PermissionError):
        listening.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
