"""Softnet's policy as data: its texts, its precedence, and the compiled form against the definition."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tartlet.errors import InvalidArgument
from tartlet.network.policy.flatten import open_ranges, port_levels
from tartlet.network.policy.policy import Exposure, Policy, Rules
from tartlet.network.policy.targets import Way

PRIVATE = (
    "10.0.0.5 172.16.5.5 192.168.0.10 100.64.0.1 169.254.169.254 127.0.0.1 0.0.0.1 192.0.0.8 192.0.2.1 198.51.100.1 "
    "203.0.113.1 198.18.0.1 240.0.0.1 255.255.255.255 192.168.64.255 192.168.64.12"
)
GATEWAY = IPv4Address("192.168.64.1")


def rules(allow: str | None = None, block: str | None = None, way: Way = Way.OUT) -> Rules:
    return Policy.parse(allow, block).rules(way, GATEWAY)


@pytest.mark.parametrize(
    ("allow", "block", "passing", "refused"),
    [
        (
            None,
            None,
            "8.8.8.8 192.0.0.9 192.0.0.10 11.0.0.1 172.32.0.1 198.20.0.1 224.0.0.251 192.88.99.1 192.168.64.1",
            PRIVATE,
        ),
        ("192.168.0.0/24", None, "192.168.0.10 192.168.64.1", "10.0.0.5 192.168.64.12"),
        ("33.33.33.33/32", "33.33.33.0/24", "33.33.33.33", "33.33.33.32 33.33.33.34"),
        ("66.66.0.0/16", "66.66.0.0/16", "66.67.0.1", "66.66.66.66"),
        ("@host", "0.0.0.0/0", "192.168.64.1", "8.8.8.8 192.0.0.9"),
        (None, "0.0.0.0/0", "", "192.168.64.1 8.8.8.8 192.0.0.9"),
        (None, "@host", "8.8.8.8", "192.168.64.1"),
        ("@host", "192.168.64.1/32", "8.8.8.8", "192.168.64.1"),
        ("10.0.0.0/8,10.1.2.3/32", "10.1.0.0/16", "10.0.0.5 10.1.2.3", "10.1.9.9"),
        ("10.9.9.9/8", None, "10.0.0.5", ""),
        ("0.0.0.0/0", None, "192.168.64.12 10.0.0.5 169.254.169.254", ""),
    ],
)
def test_the_table_of_destinations(allow: str | None, block: str | None, passing: str, refused: str) -> None:
    decided = rules(allow, block)
    compiled = open_ranges(decided)
    for text in (*passing.split(), *refused.split()):
        address = IPv4Address(text)
        assert decided.decide(address).passes is (text in passing.split()), text
        assert any(one.first <= int(address) <= one.last for one in compiled) is (text in passing.split()), text


def test_a_decision_names_its_rule() -> None:
    decided = rules("10.0.0.0/8", "10.1.9.9/16,@host")
    assert decided.decide(IPv4Address("10.0.0.1")).rule == "allow 10.0.0.0/8"
    assert decided.decide(IPv4Address("10.1.0.1")).rule == "block 10.1.0.0/16"
    assert decided.decide(GATEWAY).rule == "block @host"
    assert decided.decide(IPv4Address("192.168.0.1")).rule == "default: 192.168.0.0/16 is private"


def test_ports_outrank_longer_prefixes_and_block_wins_among_equals() -> None:
    decided = rules("10.0.0.0/8:443,10.0.0.0/8:8000-8100", "10.1.2.3/32,10.0.0.0/8:8080,10.5.0.0/16:443")
    verdicts = [
        ("10.1.2.3", 443, True), ("10.1.2.3", 80, False), ("10.2.0.1", 8080, False), ("10.2.0.1", 8081, True),
        ("10.5.0.1", 443, False), ("10.2.0.1", None, False), ("8.8.8.8", None, True),
    ]  # fmt: skip
    for address, port, passes in verdicts:
        assert decided.decide(IPv4Address(address), port).passes is passes, (address, port)


def test_a_domain_is_a_single_address_while_its_name_is_known() -> None:
    decided = rules("github.com,example.org:443", "140.82.0.0/16,0.0.0.0/0")
    address, other = IPv4Address("140.82.121.3"), IPv4Address("93.184.215.14")
    names = {"github.com": {address}, "example.org": {other}}
    assert not decided.decide(address).passes
    assert decided.decide(address, names=names).rule == "allow github.com"
    assert not decided.decide(other, 80, names).passes
    assert decided.decide(other, 443, names).rule == "allow example.org:443"


def test_directions() -> None:
    policy = Policy.parse("in 10.0.0.0/8,out 192.168.0.0/16", "0.0.0.0/0")
    inbound, outbound = policy.rules(Way.IN, GATEWAY), policy.rules(Way.OUT, GATEWAY)
    verdicts = {"10.0.0.1": (True, False), "192.168.0.1": (False, True), "8.8.8.8": (False, False)}
    for text, (comes_in, goes_out) in verdicts.items():
        assert inbound.decide(IPv4Address(text)).passes is comes_in, text
        assert outbound.decide(IPv4Address(text)).passes is goes_out, text
    assert policy.directional
    assert Policy.parse("in 10.0.0.0/8").rules(Way.IN, GATEWAY).decide(IPv4Address("192.168.9.9")).passes


@pytest.mark.parametrize(
    ("allow", "isolated"),
    [(None, True), ("0.0.0.0/0", False), ("1.2.3.4/0", False), ("0.0.0.0/1,128.0.0.0/1", True),
     ("0.0.0.0/0:80", True), ("0.0.0.0/0,in 10.0.0.0/8", True)],
)  # fmt: skip
def test_only_everything_opens_the_way_to_the_neighbours(allow: str | None, isolated: bool) -> None:
    assert Policy.parse(allow, "0.0.0.0/0").isolated is isolated


@pytest.mark.parametrize(
    ("element", "fault"),
    [
        ("10.0.0.1", "prefix length"), ("10.0.0.0/33", "prefix length"), ("10.0.0/8", "0 to 32"),
        ("10.0.0.0/255.0.0.0", "0 to 32"), ("010.0.0.0/8", "0 to 32"), ("10.0.0.0/", "0 to 32"), ("/8", "0 to 32"),
        ("fe80::/10", "IPv6"), ("::1", "IPv6"), ("@guest", "unknown"), ("@", "unknown"), ("", "empty"), (" ", "empty"),
        ("localhost", "neither"), ("1.2.3.256/32", "0 to 32"), ("-a.example", "neither"), ("a..b", "neither"),
        ("*.com", "neither"), ("a.*.com", "neither"), ("**.a.com", "neither"),
        ("IN 10.0.0.0/8", "no target"), ("in  out 10.0.0.0/8", "no target"),
        ("in\t10.0.0.0/8", "no target"), ("10.0.0.0/8 ", None), ("10.0.0.0/8:", "ports"), ("10.0.0.0/8:0", "ports"),
        ("10.0.0.0/8:65536", "ports"), ("10.0.0.0/8:90-80", "ports"), ("10.0.0.0/8:1-2-3", "ports"),
        ("in", "neither"), (":80", "empty"), ("\u0661\u0660.0.0.0/8", "0 to 32"), ("10.0.0.0/8;drop", "0 to 32"),
        ('x"y.com', "neither"), ("a.b }", "no target"),
    ],
)  # fmt: skip
def test_an_element_that_cannot_be_understood_is_named(element: str, fault: str | None) -> None:
    if fault is None:
        assert Policy.parse(element) == Policy.parse(element.strip())
        return
    with pytest.raises(InvalidArgument, match=fault) as caught:
        Policy.parse(f"8.8.8.8/32,{element}")
    assert f"--net-softnet-allow: element 2 ({element!r})" in str(caught.value)
    assert caught.value.exit_code == 64


def test_domains_cannot_be_blocked() -> None:
    with pytest.raises(InvalidArgument, match=r"github\.com is a domain name"):
        Policy.parse(None, "github.com")


def test_lists_are_masked_sorted_and_without_doubles() -> None:
    policy = Policy.parse("10.9.9.9/8, 10.0.0.0/8,in   @host,GitHub.com.,1.0.0.0/8:80-80")
    assert [str(target) for target in policy.allow] == ["1.0.0.0/8:80", "10.0.0.0/8", "github.com", "in @host"]
    assert policy.domains == ("github.com",)


def test_exposed_ports() -> None:
    policy = Policy.parse(expose="2222:22, 80:8080")
    assert policy.expose == (Exposure(port=2222, guest_port=22), Exposure(port=80, guest_port=8080))


@pytest.mark.parametrize(
    "text", ["", "22", "22:", ":22", "1:2:3", "0:22", "22:65536", "a:22", "-1:22", "\uff12:22", "22:22/udp"]
)
def test_a_bad_exposure_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--net-softnet-expose: element 2"):
        Policy.parse(expose=f"1:1,{text}")


def test_a_port_is_exposed_once() -> None:
    with pytest.raises(InvalidArgument, match="element 2 exposes port 22 once more"):
        Policy.parse(expose="22:22,22:23")


def _network(address: int, length: int) -> str:
    return str(IPv4Network((address, length), strict=False))


def _with_ports(element: str, first: int, more: int) -> str:
    return f"{element}:{first}-{min(first + more, 65535)}"


# Few distinct addresses, so that prefixes nest and meet.
addresses = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0x0A000000, 0x0A010203, 0xC0A84001, 0xFFFFFFFF, 0]))
elements = st.one_of(st.builds(_network, addresses, st.integers(0, 32)), st.just("@host"))
ported = st.builds(_with_ports, elements, st.sampled_from([1, 79, 80, 81, 443, 65535]), st.sampled_from([0, 1, 100]))
lists = st.lists(st.one_of(elements, ported), max_size=8).map(lambda found: ",".join(found) or None)


@given(allow=lists, block=lists, way=st.sampled_from([Way.IN, Way.OUT]), drawn=st.lists(st.integers(0, 2**32 - 1)))
@settings(max_examples=300, deadline=None)
def test_the_compiled_rules_decide_like_the_definition(
    allow: str | None, block: str | None, way: Way, drawn: list[int]
) -> None:
    decided = rules(allow, block, way)
    ranges, levels = open_ranges(decided), port_levels(decided)
    assert all(before.last + 1 < after.first for before, after in pairwise(ranges))
    edges = {
        int(edge) + step
        for target in (*decided.allow, *decided.block)
        if (network := decided.network(target))
        for edge in (network[0], network[-1])
        for step in (-1, 0, 1)
    }
    for number in sorted({*drawn, *edges, int(GATEWAY), 0xC0000009} - {-1, 2**32}):
        for port in (None, 1, 79, 80, 81, 443, 543, 544, 65535):
            expected = decided.decide(IPv4Address(number), port).passes
            found = next(
                (
                    passes
                    for level in levels
                    for passes, members in ((False, level.blocked), (True, level.allowed))
                    for network, ports in members
                    if port is not None and IPv4Address(number) in network and ports.first <= port <= ports.last
                ),
                None,
            )
            if found is None:
                found = any(one.first <= number <= one.last for one in ranges)
            assert found is expected, (IPv4Address(number), port)
