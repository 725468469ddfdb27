"""Connections by real sockets through a VM's filter: who reaches whom, and what a live replacement does to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import anyio
import pytest

from namespaces import entered
from network_lab import GATEWAY, HOST_ON_LAN, VM_ADDRESS, Lab, laid_out
from tartlet.network.policy.policy import Policy

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root]
VM, OTHER = VM_ADDRESS
LAN = "192.168.0.0/24"
_SO_RCVBUFFORCE = 33


async def test_the_host_reaches_a_vm_while_the_vm_may_answer() -> None:
    async with laid_out(Policy(), Policy()) as lab:
        with lab.serving(lab.vms[0], 22):
            assert lab.reached(lab.host, VM, 22)
            await lab.apply(Policy.parse(None, "0.0.0.0/0"), Policy())
            assert not lab.reached(lab.host, VM, 22)
            await lab.apply(Policy.parse("@host", "0.0.0.0/0"), Policy())
            assert lab.reached(lab.host, VM, 22)


async def test_services_of_the_host_are_reached_by_the_gateway() -> None:
    async with laid_out(Policy(), Policy()) as lab:
        vm = lab.vms[0]
        with lab.serving(lab.host, 8000):
            assert lab.reached(vm, GATEWAY, 8000)
            assert not lab.reached(vm, HOST_ON_LAN, 8000)
            await lab.apply(Policy.parse(LAN), Policy())
            assert lab.reached(vm, HOST_ON_LAN, 8000)
            await lab.apply(Policy.parse(LAN, "@host:8000"), Policy())
            assert not lab.reached(vm, GATEWAY, 8000)
            assert lab.reached(vm, HOST_ON_LAN, 8000)


async def test_an_exposed_port() -> None:
    async with laid_out(Policy.parse(expose="2222:22,2223:23"), Policy()) as lab:
        outside, vm = lab.outside, lab.vms[0]
        with lab.serving(vm, 22) as server, lab.serving(vm, 23, "127.0.0.1"):
            assert lab.reached(outside, HOST_ON_LAN, 2222, source="8.8.8.8")
            with server.accept()[0] as served:
                assert served.getpeername()[0] == "8.8.8.8", "the VM sees its client's own address"
            assert not lab.reached(outside, HOST_ON_LAN, 2222, source="192.168.0.10")
            assert not lab.reached(outside, HOST_ON_LAN, 2223, source="8.8.8.8")
            assert not lab.reached(outside, HOST_ON_LAN, 22, source="8.8.8.8")
            assert not lab.reached(lab.vms[1], GATEWAY, 2222)
            assert lab.reached(lab.host, HOST_ON_LAN, 2222)
            assert lab.reached(lab.host, GATEWAY, 2222)
            assert not lab.reached(lab.host, "127.0.0.1", 2222)
            await lab.apply(Policy.parse(LAN), Policy())
            assert lab.reached(outside, HOST_ON_LAN, 2222, source="192.168.0.10")


async def test_an_exposed_port_whose_clients_are_hidden_needs_no_rule_for_them() -> None:
    async with laid_out(Policy.parse(expose="2222:22"), Policy(), hides_clients=True) as lab:
        with lab.serving(lab.vms[0], 22) as server:
            assert lab.reached(lab.outside, HOST_ON_LAN, 2222, source="192.168.0.10")
            with server.accept()[0] as served:
                assert served.getpeername()[0] == GATEWAY
            assert not lab.reached(lab.vms[0], "192.168.0.10", 80)
            assert not lab.reached(lab.vms[1], GATEWAY, 2222)


async def test_a_host_only_network() -> None:
    async with laid_out(Policy(), Policy(), host_only=True) as lab:
        with ExitStack() as held:
            for inside, port in ((lab.outside, 80), (lab.host, 8000), (lab.vms[0], 22), (lab.vms[1], 22)):
                held.enter_context(lab.serving(inside, port))
            assert not lab.reached(lab.vms[0], "8.8.8.8", 80)
            assert not lab.reached(lab.outside, VM, 22, source="8.8.8.8")
            assert not lab.reached(lab.vms[0], OTHER, 22)
            assert lab.reached(lab.vms[0], GATEWAY, 8000)
            assert lab.reached(lab.host, VM, 22)


async def test_ports() -> None:
    async with laid_out(Policy.parse("8.8.8.8/32:80-82,10.0.0.0/8:80", "0.0.0.0/0,8.8.8.8/32:81"), Policy()) as lab:
        with ExitStack() as held:
            for port in (80, 81, 82, 83):
                held.enter_context(lab.serving(lab.outside, port))
            open_to = [port for port in (80, 81, 82, 83) if lab.reached(lab.vms[0], "8.8.8.8", port)]
            assert open_to == [80, 82]
            assert lab.reached(lab.vms[0], "10.0.0.5", 80)
            assert not lab.reached(lab.vms[0], "10.0.0.5", 82)
            assert not lab.reached(lab.vms[0], "1.1.1.1", 80)


async def test_directions() -> None:
    policy = Policy.parse("out 1.1.1.1/32:80", "out 0.0.0.0/0,in 10.0.0.0/8", "2222:22")
    async with laid_out(policy, Policy()) as lab:
        outside, host, vm = lab.outside, lab.host, lab.vms[0]
        with lab.serving(outside, 80), lab.serving(host, 8000), lab.serving(vm, 22):
            assert lab.reached(host, VM, 22)
            assert lab.reached(outside, HOST_ON_LAN, 2222, source="8.8.8.8")
            assert lab.reached(outside, HOST_ON_LAN, 2222, source="192.168.0.10"), "who is let in gets answers"
            assert not lab.reached(outside, HOST_ON_LAN, 2222, source="10.0.0.5")
            assert not lab.reached(vm, GATEWAY, 8000)
            assert not lab.reached(vm, "8.8.8.8", 80)
            assert lab.reached(vm, "1.1.1.1", 80)
            await lab.apply(Policy.parse("out 8.8.8.8/32", "in 0.0.0.0/0"), Policy())
            assert not lab.reached(host, VM, 22)
            assert lab.reached(vm, "8.8.8.8", 80)
            assert lab.reached(vm, GATEWAY, 8000), "the gateway is open by default"
            assert not lab.reached(vm, "10.0.0.5", 80), "private networks are closed by default"
            await lab.apply(Policy.parse("10.0.0.0/8,in @host", "0.0.0.0/0"), Policy())
            assert lab.reached(host, VM, 22)
            assert lab.reached(vm, "10.0.0.5", 80)
            assert lab.reached(outside, HOST_ON_LAN, 2222, source="10.0.0.5"), "bare elements speak of both directions"
            assert not lab.reached(vm, GATEWAY, 8000)
            assert not lab.reached(outside, HOST_ON_LAN, 2222, source="8.8.8.8")


@pytest.mark.parametrize(
    ("before", "after"),
    [(Policy.parse("in @host"), Policy.parse(None, "in @host")), (Policy(), Policy.parse(None, "@host"))],
    ids=["flows", "packets"],
)
async def test_a_new_policy_rules_connections_that_stand(before: Policy, after: Policy) -> None:
    async with laid_out(before, Policy()) as lab:
        with lab.serving(lab.vms[0], 22) as server, lab.dialled(lab.host, VM, 22) as client:
            assert client is not None
            served, _ = server.accept()
            with served:
                served.sendall(b"one")
                assert client.recv(9) == b"one"
                await lab.apply(after, Policy())
                served.sendall(b"two")
                with pytest.raises(TimeoutError):
                    client.recv(9)
                await lab.apply(before, Policy())
                client.settimeout(5)
                assert client.recv(9) == b"two"


async def test_two_hundred_replacements_lose_no_packet_and_let_none_through() -> None:
    policies = [
        Policy.parse(None, "10.0.0.0/8"),
        Policy.parse("8.8.8.8/32,9.0.0.0/8", "0.0.0.0/0"),
        Policy.parse("8.8.8.8/32:9", "0.0.0.0/0"),
        Policy.parse("out 8.8.8.8/32:9", "0.0.0.0/0"),
        Policy.parse("10.0.0.0/8", "10.0.0.5/32:9"),
        Policy.parse("out 10.0.0.0/8", "out 10.0.0.5/32:9"),
        Policy().with_lists([f"8.8.{number // 250}.{number % 250}/32" for number in range(2200)], ["10.0.0.0/8"]),
    ]
    async with laid_out(policies[0], Policy()) as lab:
        with _listening(lab, "8.8.8.8") as allowed, _listening(lab, "10.0.0.5") as refused:
            with _chatter(lab) as sent:
                number = 0
                while number < 200 or sent[0] < 300:
                    await lab.filters[0].replace(policies[number % (7 if number < 28 else 6)])
                    number += 1
            with anyio.move_on_after(5):  # a busy kernel delivers the last ones later
                while allowed != sent:  # noqa: ASYNC110 - another thread counts
                    await anyio.sleep(0.01)
        assert allowed == sent
        assert refused == [0]


@contextmanager
def _listening(lab: Lab, address: str) -> Generator[list[int]]:
    """Counts the datagrams that arrive at port 9 of a machine outside; the count is kept after the block."""
    count = [0]
    with entered(lab.outside):
        ear = socket.socket(type=socket.SOCK_DGRAM)
    with ear:
        ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)  # a thread may get its turn late
        ear.bind((address, 9))
        ear.settimeout(30)

        def count_all() -> None:
            while ear.recv(100) != b"end":
                count[0] += 1

        thread = threading.Thread(target=count_all)
        thread.start()
        try:
            yield count
        finally:
            with entered(lab.outside), socket.socket(type=socket.SOCK_DGRAM) as last:
                last.sendto(b"end", (address, 9))
            thread.join()


@contextmanager
def _chatter(lab: Lab) -> Generator[list[int]]:
    """The VM talks all the time, to one address that is always allowed and one that never is."""
    with entered(lab.vms[0]):
        mouth = socket.socket(type=socket.SOCK_DGRAM)
    ended, sent = threading.Event(), [0]

    def talk() -> None:
        while not ended.wait(0.001):
            mouth.sendto(b"talk", ("10.0.0.5", 9))
            mouth.sendto(b"talk", ("8.8.8.8", 9))
            sent[0] += 1

    with mouth:
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield sent
        finally:
            ended.set()
            thread.join()
