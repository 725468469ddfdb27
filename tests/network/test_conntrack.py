"""The kernel's memory of connections, without those of one address."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from namespaces import Namespace
from tartlet.network.shared import conntrack

pytestmark = [pytest.mark.needs_root]

SERVER, PORT = "127.0.0.5", 9000
TRACKING = (
    "nft add table inet t; nft add chain inet t c '{ type filter hook output priority 0; }'; "
    "nft add rule inet t c ct state new accept"
)


def test_connections_from_and_to_an_address_are_forgotten(inside_private_network: Namespace) -> None:
    assert inside_private_network.run("sh", "-ec", TRACKING).returncode == 0
    with ExitStack() as held:
        held.enter_context(socket.create_server((SERVER, PORT)))
        for source in ("127.0.0.9", "127.0.0.10", "127.0.0.10"):
            held.enter_context(socket.create_connection((SERVER, PORT), source_address=(source, 0)))
        assert conntrack.forget(IPv4Address("127.0.0.10")) == 2
        assert conntrack.forget(IPv4Address("127.0.0.10")) == 0
        assert conntrack.forget(IPv4Address(SERVER)) == 1
        assert conntrack.forget(IPv4Address(SERVER)) == 0
