"""What Softnet's policy costs: compiling it, replacing it in the kernel, and the way of a packet past 200 VMs' tables.

Run it on a quiet machine, as root, with nftables: .venv/bin/python benchmarks/network_policy.py
Everything happens in network namespaces made for it.
"""

from __future__ import annotations

import socket
import statistics
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from namespaces import entered
from network_lab import GATEWAY, PLUGS, SUBNET, VM_ADDRESS, Lab, wires
from tartlet.network.policy.flatten import open_ranges
from tartlet.network.policy.policy import Policy
from tartlet.network.policy.targets import Way
from tartlet.network.rules.filter import Filter, filtered
from tartlet.network.rules.guard import base_table
from tartlet.network.rules.nft import Rules, kernel_rules
from tartlet.network.rules.ruleset import table_for

MOST_TO_REPLACE = 10.0
"""Milliseconds for the policy without elements, which is 29 ranges."""
MOST_ADDED = 0.05
"""Milliseconds that the tables of 200 VMs may add to a packet's way to a VM and back."""
OTHERS = 200
PACKETS = 3000
LARGE = Policy().with_lists([f"{10 + n // 256}.{n % 256}.7.0/24" for n in range(4096)], [])


def main() -> None:
    """Measure and print."""
    for name, policy in (("no elements", Policy()), ("4096 targets", LARGE)):
        seconds = timed(lambda policy=policy: open_ranges(policy.rules(Way.OUT, IPv4Address(GATEWAY))), 10)
        print(f"compile, {name:13} {seconds * 1000:8.2f} ms")
    anyio.run(in_the_kernel)


def timed(work: object, rounds: int) -> float:
    """The median of several runs, in seconds."""
    assert callable(work)
    taken: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


async def in_the_kernel() -> None:
    """The same two policies as rules, and the way of packets."""
    with wires() as lab:
        async with kernel_rules(lab.host.words()) as rules:
            begin = time.perf_counter()
            await rules.load(base_table("tart0", SUBNET))
            async with filtered(rules, PLUGS[0], Policy()) as filter_:
                print(f"first rules of a network and a VM {(time.perf_counter() - begin) * 1000:8.2f} ms")
                usual = await replaced(filter_, [Policy.parse("10.0.0.0/8"), Policy()], 50)
                print(f"replace, no elements  {usual:8.2f} ms   (at most {MOST_TO_REPLACE:.0f})")
                print(f"replace, 4096 targets {await replaced(filter_, [LARGE, Policy()], 6):8.2f} ms")
                await filter_.replace(Policy())
                await past_others(lab, rules)


async def replaced(filter_: Filter, policies: list[Policy], rounds: int) -> float:
    """Milliseconds that putting the first of the policies into force takes: the median."""
    taken: list[float] = []
    for number in range(2 * rounds):
        begin = time.perf_counter()
        await filter_.replace(policies[number % 2])
        if number % 2 == 0:
            taken.append((time.perf_counter() - begin) * 1000)
    return statistics.median(taken)


async def past_others(lab: Lab, rules: Rules) -> None:
    """Print the round trip of a datagram to the VM with its own table only and with those of the others."""
    with echoing(lab):
        alone = round_trip(lab)
        for number in range(OTHERS):
            address = IPv4Address(VM_ADDRESS[0]) + 1 + number
            plug = replace(PLUGS[0], tap=f"tartv{100 + number}", address=address)
            for step in table_for(plug, Policy()):
                await rules.load(step)
        crowded = round_trip(lab)
    print(f"round trip, 1 VM      {alone:8.4f} ms")
    print(f"round trip, {OTHERS} more  {crowded:8.4f} ms   added {crowded - alone:.4f} (at most {MOST_ADDED})")


def round_trip(lab: Lab) -> float:
    """Milliseconds there and back: the median of many."""
    with entered(lab.host):
        client = socket.socket(type=socket.SOCK_DGRAM)
    with client:
        client.connect((VM_ADDRESS[0], 7))
        client.settimeout(5)

        def once() -> None:
            client.send(b"ping")
            client.recv(100)

        return timed(once, PACKETS) * 1000


@contextmanager
def echoing(lab: Lab) -> Generator[None]:
    """A server in the VM that sends every datagram back; an empty one ends it."""
    with entered(lab.vms[0]):
        server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind((VM_ADDRESS[0], 7))

    def serve() -> None:
        while (heard := server.recvfrom(100))[0]:
            server.sendto(*heard)

    thread = threading.Thread(target=serve)
    with server:
        thread.start()
        try:
            yield
        finally:
            with entered(lab.host), socket.socket(type=socket.SOCK_DGRAM) as last:
                last.sendto(b"", (VM_ADDRESS[0], 7))
            thread.join()


if __name__ == "__main__":
    main()
