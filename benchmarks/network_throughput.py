"""How fast VMs get their networks, how fast these carry TCP, and what the packet filter costs.

Run it as root on a quiet machine with the packages of the tests, and with iperf3 and sshpass:
.venv/bin/python benchmarks/network_throughput.py
A tiny guest runs iperf3. All takes place in a network namespace of its own, whose uplink leads nowhere. Without KVM the
guest's processor is the limit, so only ratios mean something.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from tartlet.network.backend import NetworkBackend

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

UPLINK = "192.0.2.7"
PORT = 5201
MAC = "7a:65:e4:3f:be:01"
SECONDS, ROUNDS = 3, 3
LEAST_OF_SLIRP = 2.0
LEAST_OF_PLAIN = 0.95
MOST_ATTACH = 0.060
SSH = [
    "-o",
    "ConnectTimeout=5",
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-o",
    "LogLevel=ERROR",
]
IPERF = ["/tmp/ld", "--library-path", "/tmp/iperf", "/tmp/iperf/iperf3"]
SETUP = (
    "ip link set lo up && ip link add up0 type veth peer name up1 && "
    f"ip addr add {UPLINK}/24 dev up0 && ip link set up0 up && ip link set up1 up && ip route add default via 192.0.2.1"
)


def main() -> None:
    """Measure and print."""
    if "--inside" not in sys.argv:
        words = ["unshare", "--net", sys.executable, __file__, "--inside"]
        sys.exit(subprocess.run(words, check=False).returncode)
    subprocess.run(["sh", "-c", SETUP], check=True)
    anyio.run(measured)


async def measured() -> None:
    """All measurements, one after the other."""
    for name in ("userns", "bridge"):
        await attach_times(name)
    rates = {name: await backend_rates(name) for name in ("slirp", "passt", "userns", "bridge")}
    for way in (0, 1):
        told = "host to guest" if way == 0 else "guest to host"
        for name, both in rates.items():
            print(f"{told}  {name:7} {both[way]:7.0f} Mbit/s   {both[way] / rates['slirp'][way]:.2f} x slirp")
    print(f"(userns and bridge: at least {LEAST_OF_SLIRP:g} x)")
    await filter_cost()


def backend_named(name: str) -> NetworkBackend:
    """The backend; `bridge` is started on demand, in this network."""
    from tartlet.network.backend import preferred

    return preferred(name)[0]


async def attach_times(name: str) -> None:
    """How long it takes until a VM has its network."""
    from tartlet.network.attachment import AttachRequest

    async with AsyncExitStack() as held:
        taken: list[float] = []
        for number in range(21):
            begun = time.perf_counter()
            request = AttachRequest(vm=f"vm{number}", mac=f"7a:65:e4:3f:be:{number:02x}")
            await held.enter_async_context(backend_named(name).attach(request))
            taken.append(time.perf_counter() - begun)
    first, later = taken[0] * 1000, statistics.median(taken[1:]) * 1000
    most = f"(at most {MOST_ATTACH * 1000:.0f} ms)"
    print(f"attach {name:7} the first VM {first:.0f} ms, each later one {later:.0f} ms {most}")


@asynccontextmanager
async def guest_on(netdev: str, inherited: tuple[int, ...]) -> AsyncGenerator[None]:
    """The tiny guest on a network, with its address."""
    from machines import mini_machine, text_in

    kind, _, options = netdev.partition(",")
    with tempfile.TemporaryDirectory() as folder:
        words = f"{kind},id=net,{options}"
        with mini_machine(Path(folder), mac=MAC, netdev=words, inherited=inherited) as machine:
            await text_in(machine.serial_log, "ADDRESS", within=90)
            yield


async def backend_rates(name: str) -> tuple[float, float]:
    """Mbit/s from the host to a guest of this backend, and back."""
    from tartlet.network.attachment import AttachRequest, Forward

    backend = backend_named(name)
    forwards = (Forward(port=PORT, guest_port=PORT),)
    async with backend.attach(AttachRequest(vm="guest", mac=MAC, forwards=forwards)) as attachment:
        (cable,) = attachment.cables
        async with guest_on(cable.netdev, cable.descriptors):
            address = str(attachment.record.address)
            await iperf_in_guest(address, [])
            return await rate(address, []), await rate(address, [], "--reverse")


async def filter_cost() -> None:
    """The bridge with Softnet's rules against the same bridge without any."""
    from tartlet.network.attachment import AttachRequest
    from tartlet.network.namespace.line import joined
    from tartlet.network.policy.policy import Policy
    from tartlet.network.rules.filter import filtered
    from tartlet.network.rules.nft import kernel_rules

    async with AsyncExitStack() as held:
        _, place = await held.enter_async_context(joined("userns", AttachRequest(vm="guest", mac=MAC)))
        rules = await held.enter_async_context(kernel_rules(place.entering))
        inside, address = place.entering, str(place.address)
        without_guard = ["nft", "delete", "table", "bridge", f"tart_{place.plug.bridge}"]
        await anyio.run_process([*inside, *without_guard])
        await held.enter_async_context(guest_on(f"tap,fd={place.tap},vhost=off", (place.tap, place.lifeline)))
        await iperf_in_guest(address, inside)
        plain: list[list[float]] = [[], []]
        ruled: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for way, option in enumerate(("--no-delay", "--reverse")):
                plain[way].append(await rate(address, inside, option))
                async with filtered(rules, place.plug, Policy()):
                    ruled[way].append(await rate(address, inside, option))
        for way, told in enumerate(("to the guest", "from the guest")):
            bare, with_rules = statistics.median(plain[way]), statistics.median(ruled[way])
            ratio = with_rules / bare
            print(f"bridge {told}: plain {bare:.0f}, with rules {with_rules:.0f} Mbit/s: {ratio:.2f}")
        print(f"(with rules: at least {LEAST_OF_PLAIN} of plain)")


async def iperf_in_guest(address: str, inside: Sequence[str]) -> None:
    """Put this host's iperf3 into the guest, and have it listen."""
    libraries = (await anyio.run_process(["ldd", "/usr/bin/iperf3"])).stdout.decode()
    files = [word for line in libraries.splitlines() for word in line.split() if word.startswith("/")]
    loader = next(file for file in files if "ld-linux" in file)
    names = " ".join([*files, "/usr/bin/iperf3"])
    serve = f"setsid {' '.join(IPERF)} -s < /dev/null > /dev/null 2>&1 &"
    start = f"cp /tmp/iperf/{Path(loader).name} /tmp/ld; {serve} sleep 1"
    ssh = ["sshpass", "-e", "ssh", *SSH, f"admin@{address}"]
    unpack = "mkdir -p /tmp/iperf && tar x -C /tmp/iperf"
    copy = f"tar ch --transform 's|.*/||' {names} 2>/dev/null | {' '.join(ssh)} '{unpack}'"
    env = {**os.environ, "SSHPASS": "admin"}
    copying = [*inside, "timeout", "30", "sh", "-c", copy]
    for _ in range(40):  # the guest's SSH server comes some seconds after its address
        if not (await anyio.run_process(copying, check=False, env=env)).returncode:
            break
        await anyio.sleep(1)
    await anyio.run_process([*inside, *ssh, start], env=env)
    await anyio.sleep(1)


async def rate(address: str, inside: Sequence[str], *options: str) -> float:
    """Mbit/s that arrive, by iperf3 from the host."""
    client = ["timeout", "60", "iperf3", "-J", "-c", address, "-p", str(PORT), "-t", str(SECONDS), "-O", "1"]
    words = [*inside, *client, *options]
    told: dict[str, Any] = {"error": "never asked"}
    for _ in range(10):
        told = json.loads((await anyio.run_process(words, check=False)).stdout)
        if "error" not in told:
            return float(told["end"]["sum_received"]["bits_per_second"]) / 1e6
        await anyio.sleep(1)  # the server in the guest is starting
    sys.exit(f"iperf3: {told['error']}")


if __name__ == "__main__":
    main()
