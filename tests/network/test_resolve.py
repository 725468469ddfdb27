"""Where the address of a VM comes from: its record, the neighbour table, the agent."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from namespaces import Namespace
from tartlet.network import record
from tartlet.network.lookup import neighbours
from tartlet.network.lookup.leases import mac_bytes
from tartlet.network.lookup.resolve import Resolver, address_of
from tartlet.network.record import NetworkRecord

pytestmark = pytest.mark.anyio

MAC = "02:00:00:00:00:01"
OCTETS = bytes.fromhex("020000000001")
KNOWN = NetworkRecord(backend="passt", address="127.64.1.2", ssh_port=2222, guest_address="10.0.2.15")


def arp_table() -> str:
    return Path("/proc/net/arp").read_text()


async def agent() -> IPv4Address | None:
    return IPv4Address("10.0.2.15")


def test_a_record_is_read_back(tmp_path: Path) -> None:
    record.write(tmp_path, KNOWN)
    assert record.read(tmp_path) == KNOWN


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"backend":"x"}', '"text"', json.dumps({"address": "nonsense"}), "\x00"]
)
def test_a_file_that_is_no_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / record.FILE_NAME).write_text(content)
    assert record.read(tmp_path) is None


def test_no_record_and_no_folder(tmp_path: Path) -> None:
    assert record.read(tmp_path) is None
    assert record.read(tmp_path / "gone") is None


async def test_the_record_counts_only_while_the_vm_runs(tmp_path: Path) -> None:
    record.write(tmp_path, KNOWN)
    assert await address_of(tmp_path, MAC, Resolver.DHCP, running=True) == IPv4Address("127.64.1.2")
    assert await address_of(tmp_path, MAC, Resolver.DHCP, running=False) is None


async def test_without_a_resolver_the_agent_is_asked_last(tmp_path: Path) -> None:
    assert await address_of(tmp_path, MAC, None, running=True, ask_agent=agent) == IPv4Address("10.0.2.15")
    record.write(tmp_path, KNOWN)
    assert await address_of(tmp_path, MAC, None, running=True, ask_agent=agent) == IPv4Address("127.64.1.2")


async def test_a_resolver_that_is_named_is_used_alone(tmp_path: Path) -> None:
    assert await address_of(tmp_path, MAC, Resolver.DHCP, running=True, ask_agent=agent) is None
    assert await address_of(tmp_path, MAC, Resolver.ARP, running=True, ask_agent=agent) is None
    record.write(tmp_path, KNOWN)
    assert await address_of(tmp_path, MAC, Resolver.AGENT, running=True, ask_agent=agent) == IPv4Address("10.0.2.15")


@pytest.mark.parametrize("state", ["reachable", "stale", "delay", "probe", "permanent"])
@pytest.mark.needs_root
async def test_a_neighbour_the_kernel_knows(inside_private_network: Namespace, tmp_path: Path, state: str) -> None:
    add = ("ip", "neighbour", "add", "192.0.2.55", "lladdr", MAC, "dev", "up0", "nud", state)
    assert inside_private_network.run(*add).returncode == 0
    expected = IPv4Address("192.0.2.55")
    assert await address_of(tmp_path, "2:0:0:0:0:1", Resolver.ARP, running=True) == expected
    assert neighbours.in_arp_table(arp_table(), OCTETS) == expected


@pytest.mark.needs_root
async def test_a_neighbour_that_does_not_answer_is_none(inside_private_network: Namespace) -> None:
    add = ("ip", "neighbour", "add", "192.0.2.55", "lladdr", MAC, "dev", "up0", "nud", "failed")
    assert inside_private_network.run(*add).returncode == 0
    assert neighbours.address_of(MAC) is None
    assert neighbours.in_arp_table(arp_table(), OCTETS) is None


def test_ip_may_print_nothing() -> None:
    assert neighbours.in_ip_neighbours("", OCTETS) is None
    assert neighbours.in_ip_neighbours('[{"dst":"192.0.2.1","dev":"eth0","state":["INCOMPLETE"]}]', OCTETS) is None
    assert mac_bytes("") is None
