"""Allowed names: what an answer opens, for how long, and what it cannot open."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address

import anyio
import anyio.to_thread
import dns.flags
import dns.message
import dns.rrset
import pytest

from namespaces import Namespace, entered
from network_lab import GATEWAY, VM_ADDRESS, Lab, laid_out
from tartlet.network.policy.dns_answers import Found, asked_name, covers, found
from tartlet.network.policy.policy import Policy
from tartlet.network.policy.targets import Way
from tartlet.network.rules.name_watch import names_watched
from tartlet.network.rules.nft import kernel_rules

pytestmark = [pytest.mark.anyio]
ZONE = {
    "one.site.example.": ["one.site.example. 300 IN A 8.8.8.8", "one.site.example. 300 IN A 1.1.1.1"],
    "alias.example.": ["alias.example. 60 IN CNAME one.site.example.", "one.site.example. 300 IN A 8.8.8.8"],
    "private.example.": ["private.example. 300 IN A 10.0.0.5", "private.example. 300 IN A 192.168.0.10"],
    "short.example.": ["short.example. 0 IN A 8.8.8.8"],
    "other.example.": ["other.example. 300 IN A 8.8.8.8"],
}


def answer_to(packet: bytes) -> bytes:
    """A name server's answer from ZONE."""
    answer = dns.message.make_response(dns.message.from_wire(packet))
    for text in ZONE.get(str(answer.question[0].name).lower(), ()):
        name, ttl, rdclass, rdtype, data = text.split()
        answer.answer.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))
    return answer.to_wire()


def query(name: str, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind).to_wire()


@pytest.mark.parametrize(
    ("domain", "name", "covered"),
    [
        ("github.com", "github.com", True), ("github.com", "api.github.com", False),
        ("*.github.com", "api.github.com", True), ("*.github.com", "a.b.github.com", True),
        ("*.github.com", "github.com", False), ("*.github.com", "evilgithub.com", False),
        ("github.com", "github.com.evil.org", False),
    ],
)  # fmt: skip
def test_names_that_an_element_covers(domain: str, name: str, covered: bool) -> None:
    assert covers(domain, name) is covered
    assert [target.domain for target in Policy.parse(domain).allow] == [domain]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (query("One.Site.Example"), "one.site.example"), (query("one.site.example", "AAAA"), None), (b"", None),
        (b"\0" * 12, None), (query("one.site.example")[:-3], None),
    ],
    ids=["A", "AAAA", "nothing", "no question", "cut"],  # a question has a random number in it
)  # fmt: skip
def test_questions(asked: bytes, name: str | None) -> None:
    assert asked_name(asked) == name


def test_answers() -> None:
    both = [Found(address=IPv4Address("8.8.8.8"), seconds=300), Found(address=IPv4Address("1.1.1.1"), seconds=300)]
    assert found(answer_to(query("one.site.example")), "one.site.example") == both
    assert found(answer_to(query("alias.example")), "alias.example") == [
        Found(address=IPv4Address("8.8.8.8"), seconds=60)
    ]
    assert found(answer_to(query("one.site.example")), "other.example") == []
    assert found(answer_to(query("none.site.example")), "none.site.example") == []
    assert found(query("one.site.example"), "one.site.example") == []
    whole = answer_to(query("one.site.example"))
    for length in range(len(whole)):
        assert found(whole[:length], "one.site.example") in ([], both[:1]), length


def test_what_a_name_opens() -> None:
    rules = Policy.parse("*.b.org,a.b.org:443,0.0.0.0/0:1", "8.8.8.8/32,8.8.0.0/16:80").rules(
        Way.OUT, IPv4Address(GATEWAY)
    )

    def opened(name: str, address: str) -> list[str]:
        return [str(target) for target in rules.named(name, IPv4Address(address))]

    assert opened("a.b.org", "1.1.1.1") == ["*.b.org", "a.b.org:443"]
    assert opened("a.b.org", "8.8.8.8") == ["a.b.org:443"], "a block of just this address is as long, and wins"
    assert opened("a.com", "1.1.1.1") == []
    for private in ("10.0.0.5", "169.254.169.254", "127.0.0.1", GATEWAY, "224.0.0.1", "255.255.255.255"):
        assert opened("a.b.org", private) == []


@asynccontextmanager
async def asking(lab: Lab) -> AsyncGenerator[None]:
    """The VM's questions go to ZONE, and are watched."""
    with entered(lab.host):
        ends = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    async with kernel_rules(lab.host.words()) as rules:
        with ends[0], ends[1], _name_server(lab.host):
            async with names_watched(lab.filters[0], rules, *ends):
                yield


async def told(lab: Lab, name: str, kind: str = "A") -> list[str]:
    """What the VM hears when it asks."""

    def ask() -> bytes:
        with entered(lab.vms[0]), socket.socket(type=socket.SOCK_DGRAM) as resolver:
            resolver.settimeout(5)
            resolver.connect((GATEWAY, 53))
            resolver.send(query(name, kind))
            return resolver.recv(4096)

    answer = dns.message.from_wire(await anyio.to_thread.run_sync(ask))
    assert answer.flags & dns.flags.QR
    return [line.split()[-1] for records in answer.answer for line in records.to_text().splitlines()]


@contextmanager
def _name_server(host: Namespace) -> Generator[None]:
    with entered(host):
        server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind((GATEWAY, 53))

    def serve() -> None:
        while (heard := server.recvfrom(4096))[0]:
            server.sendto(answer_to(heard[0]), heard[1])

    thread = threading.Thread(target=serve)
    with server:
        thread.start()
        try:
            yield
        finally:
            with entered(host), socket.socket(type=socket.SOCK_DGRAM) as last:
                last.sendto(b"", (GATEWAY, 53))
            thread.join()


@pytest.mark.needs_root
@pytest.mark.parametrize("way", ["", "out "], ids=["packets", "flows"])
async def test_a_name_opens_its_addresses_before_the_guest_hears_of_them(way: str) -> None:
    policy = Policy.parse(f"{way}one.site.example,{way}*.site.example:81", f"{way}0.0.0.0/0")
    async with laid_out(policy, Policy()) as lab, asking(lab):
        vm = lab.vms[0]
        with lab.serving(lab.outside, 80), lab.serving(lab.outside, 81), lab.serving(lab.outside, 82):
            assert not lab.reached(vm, "8.8.8.8", 80)
            assert await told(lab, "one.site.example") == ["8.8.8.8", "1.1.1.1"]
            for address in ("8.8.8.8", "1.1.1.1"):
                assert lab.reached(vm, address, 80)
            assert not lab.reached(vm, "10.0.0.5", 80)
            await lab.filters[0].replace(policy.with_lists([f"{way}*.site.example:80-81"], [f"{way}0.0.0.0/0"]))
            assert lab.reached(vm, "8.8.8.8", 81), "what is known is kept for the next policy"
            assert not lab.reached(vm, "8.8.8.8", 82)
            await lab.filters[0].replace(policy.with_lists([], [f"{way}0.0.0.0/0"]))
            assert not lab.reached(vm, "8.8.8.8", 81)


@pytest.mark.needs_root
async def test_what_a_name_does_not_open() -> None:
    policy = Policy.parse("private.example,alias.example:81", "0.0.0.0/0,8.8.8.8/32:82")
    async with laid_out(policy, Policy()) as lab, asking(lab):
        vm = lab.vms[0]
        with lab.serving(lab.outside, 80), lab.serving(lab.outside, 81), lab.serving(lab.host, 82):
            assert await told(lab, "private.example") == ["10.0.0.5", "192.168.0.10"]
            assert not lab.reached(vm, "10.0.0.5", 80)
            assert await told(lab, "other.example") == ["8.8.8.8"]
            assert not lab.reached(vm, "8.8.8.8", 81)
            assert await told(lab, "alias.example", "TXT") == ["one.site.example.", "8.8.8.8"], "other questions pass"
            assert not lab.reached(vm, "8.8.8.8", 81)
            assert await told(lab, "alias.example") == ["one.site.example.", "8.8.8.8"]
            assert lab.reached(vm, "8.8.8.8", 81)
            assert not lab.reached(vm, "8.8.8.8", 80)
            assert not lab.reached(vm, GATEWAY, 82), "only the gateway's DNS is open"


@pytest.mark.needs_root
async def test_an_address_is_closed_after_its_time_unless_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tartlet.network.rules.filter.SLACK", 1.2)
    policy = Policy.parse("short.example,one.site.example", "0.0.0.0/0")
    async with laid_out(policy, Policy()) as lab, asking(lab):
        vm = lab.vms[0]
        with lab.serving(lab.outside, 80):
            assert await told(lab, "short.example") == ["8.8.8.8"]
            time.sleep(1.5)  # noqa: ASYNC251 - kernel time
            assert not lab.reached(vm, "8.8.8.8", 80)
            assert await told(lab, "short.example") == ["8.8.8.8"]
            assert lab.reached(vm, "8.8.8.8", 80)
            time.sleep(1.5)  # noqa: ASYNC251 - kernel time
            assert lab.reached(vm, "8.8.8.8", 80), "an address in use stays open"


@pytest.mark.needs_root
async def test_many_questions_at_once_get_their_own_answers() -> None:
    async with laid_out(Policy.parse("one.site.example", "0.0.0.0/0"), Policy()) as lab, asking(lab):

        def ask_all() -> None:
            asked = [dns.message.make_query("one.site.example" if n % 2 else "other.example", "A") for n in range(200)]
            with entered(lab.vms[0]), socket.socket(type=socket.SOCK_DGRAM) as resolver:
                resolver.settimeout(5)
                resolver.connect((GATEWAY, 53))
                for question in asked:
                    resolver.send(question.to_wire())
                    assert question.is_response(dns.message.from_wire(resolver.recv(4096)))

        await anyio.to_thread.run_sync(ask_all)


@pytest.mark.needs_root
async def test_only_the_vm_itself_is_answered_by_its_relay() -> None:
    async with laid_out(Policy.parse("one.site.example"), Policy.parse("0.0.0.0/0")) as lab, asking(lab):
        bound = [word.rpartition(":") for word in lab.host.run("ss", "-Hnul").stdout.split()]
        (port,) = {int(number) for address, _, number in bound if address == GATEWAY and number not in ("53", "*")}
        with entered(lab.vms[1]), socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(0.5)
            stranger.sendto(query("one.site.example"), (GATEWAY, port))
            with pytest.raises(TimeoutError):
                stranger.recv(100)
        assert await told(lab, "one.site.example") == ["8.8.8.8", "1.1.1.1"]
        assert VM_ADDRESS[0] == str(lab.filters[0].plug.address)
