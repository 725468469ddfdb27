"""Rules in the kernel: whole transactions, told errors, and nothing left when the owner dies."""

from __future__ import annotations

import os
import shutil
import signal
from ipaddress import IPv4Address, IPv4Network

import anyio
import pytest

from namespaces import Namespace
from tartlet.network.attachment import NetworkLost
from tartlet.network.policy.policy import Policy
from tartlet.network.rules.filter import filtered
from tartlet.network.rules.guard import base_table
from tartlet.network.rules.nft import Rules, RulesRefused, kernel_rules
from tartlet.network.rules.plug import Plug
from tartlet.network.rules.ruleset import table_for

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="needs nft"),
]
PLUG = Plug(
    tap="tartv0",
    bridge="tart0",
    mac="02:00:00:00:00:01",
    address=IPv4Address("192.168.64.11"),
    gateway=IPv4Address("192.168.64.1"),
)
MANY = [f"{10 + number // 256}.{number % 256}.7.9/32" for number in range(4096)]
EVERY_KIND = Policy.parse(
    "10.0.0.0/8:80,github.com,example.org:443,@host:22-30,10.0.0.0/8:80-90", "10.1.0.0/16:80-90,0.0.0.0/0", "2222:22"
)
DIRECTIONAL = Policy.parse("in 10.0.0.0/8,out 1.0.0.0/8:80,@host,in 10.2.0.0/16:22", "in 0.0.0.0/0")
POLICIES = {
    "none": None,
    "default": Policy(),
    "every kind": EVERY_KIND,
    "directional": DIRECTIONAL,
    "nothing": Policy.parse(None, "0.0.0.0/0"),
    "many": Policy().with_lists(MANY[:1200], ["0.0.0.0/0"]),
    "many ports": Policy().with_lists([f"{element}:{80 + number}" for number, element in enumerate(MANY[:1200])], []),
    "many flows": Policy().with_lists([f"in {element}" for element in MANY[:1200]], ["0.0.0.0/0"]),
}


async def load(rules: Rules, policy: Policy) -> None:
    for step in table_for(PLUG, policy):
        await rules.load(step)


BASE = [f"table {family} tart_tart{number}" for family in ("bridge", "inet") for number in (0, 1)]


def tables(inside: Namespace) -> list[str]:
    return sorted(inside.run("nft", "list", "tables").stdout.splitlines())


@pytest.mark.parametrize("name", POLICIES)
async def test_every_policy_loads_and_gives_way_to_every_other(private_network: Namespace, name: str) -> None:
    async with kernel_rules(private_network.words()) as rules:
        await rules.load(base_table("tart0", IPv4Network("192.168.64.0/24")))
        await rules.load(base_table("tart1", IPv4Network("192.168.128.0/24"), host_only=True))
        async with filtered(rules, PLUG, POLICIES[name]) as filter_:
            for other in POLICIES.values():
                for policy in (other, POLICIES[name]):
                    await filter_.replace(policy)
                    flows = [table for table in tables(private_network) if "tartv0_" in table]
                    assert len(flows) == (1 if policy and policy.directional else 0)
        assert tables(private_network) == BASE
    assert tables(private_network) == BASE  # which has no owner


async def test_the_largest_policy_loads(private_network: Namespace) -> None:
    async with kernel_rules(private_network.words()) as rules, filtered(rules, PLUG, Policy()) as filter_:
        await filter_.replace(Policy().with_lists(MANY[:4095], ["0.0.0.0/0"]))
        (found,) = await rules.listed("list set bridge tart_tartv0 sent_b")
        assert len(found["set"]["elem"]) == 4095


async def test_what_is_refused_changes_nothing(private_network: Namespace) -> None:
    async with kernel_rules(private_network.words()) as rules:
        await load(rules, Policy())
        before = await rules.listed("list chain bridge tart_tartv0 judge")
        for broken in ("add rule bridge tart_tartv0 nowhere accept", "add bogus", "x" * 300_000):
            with pytest.raises(RulesRefused):
                await rules.load(f"flush chain bridge tart_tartv0 judge\n{broken}")
        assert await rules.listed("list chain bridge tart_tartv0 judge") == before
        with pytest.raises(RulesRefused, match="No such file or directory"):
            await rules.listed("list chain bridge tart_tartv0 nowhere")


async def test_rules_end_with_their_process(private_network: Namespace) -> None:
    with pytest.raises(NetworkLost, match="ended with status"):  # noqa: PT012 - the block has to be entered first
        async with kernel_rules(private_network.words()) as rules:
            await load(rules, EVERY_KIND)
            os.kill(rules.pid, signal.SIGKILL)
            with anyio.fail_after(5):
                assert "status -9" in str(await rules.lost())
            assert tables(private_network) == []
            await load(rules, EVERY_KIND)


async def test_nobody_else_can_change_owned_rules(private_network: Namespace) -> None:
    async with kernel_rules(private_network.words()) as rules, kernel_rules(private_network.words()) as other:
        await load(rules, EVERY_KIND)
        with pytest.raises(RulesRefused, match="not permitted"):
            await other.load("flush chain bridge tart_tartv0 judge")
        await other.load("flush ruleset")
        assert await rules.listed("list chain bridge tart_tartv0 judge")


async def test_calls_side_by_side_get_their_own_answers(private_network: Namespace) -> None:
    async with kernel_rules(private_network.words()) as rules:
        await load(rules, Policy())
        seen: list[str] = []

        async def look(chain: str) -> None:
            with anyio.move_on_after(0.001):  # given up or not: no answer may go astray
                await rules.listed(f"list chain bridge tart_tartv0 {chain}")
            found = await rules.listed(f"list chain bridge tart_tartv0 {chain}")
            seen.extend(one["chain"]["name"] for one in found if "chain" in one)

        async with anyio.create_task_group() as tasks:
            for chain in ("judge", "refuse", "arp_vm", "ip_vm", "from_vm"):
                tasks.start_soon(look, chain)
        assert sorted(seen) == ["arp_vm", "from_vm", "ip_vm", "judge", "refuse"]


@pytest.mark.parametrize("tap", ["tart v", "", "x" * 16, 'a"', "1a", "a;b"])
def test_a_name_that_is_none_gets_into_no_rule(tap: str) -> None:
    with pytest.raises(ValueError, match="no name for an interface"):
        Plug(tap=tap, bridge="tart0", mac=PLUG.mac, address=PLUG.address, gateway=PLUG.gateway)
