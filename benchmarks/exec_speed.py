"""Commands and copies through our own agent, beside ssh and scp over one open connection to the same guest.

The VM has to run, with the agent and an SSH server in it. Prints ratios; each pair is measured in turns, so that what
else the machine does hits both alike.

    .venv/bin/python benchmarks/exec_speed.py debian [foreign]

With the name of a second running VM, whose only agent is behind vsock (the tests' `vsock_lab` makes such
a guest), its commands are measured too.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from tartlet import Command, GuestChannel, Home, Settings, VmStore, connect
from tartlet.guest.client.copying import copy_from, copy_into
from tartlet.network import record
from tartlet.vm.stored.folder import VmFolder

COMMANDS = 30
COPIES = 3
SIZE = 8 << 20
"""Bytes that are copied each time."""
SENT = "exec-speed-data"
KEYS = "mkdir -p -m 700 ~/.ssh && cat >> ~/.ssh/authorized_keys && chmod 600 ~/.ssh/authorized_keys"


class Ssh:
    """One multiplexed connection to the guest."""

    def __init__(self, folder: Path, vm: VmFolder) -> None:
        told = record.read(vm.path)
        assert told is not None
        assert told.address is not None, "the VM has no address that this host reaches"
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.host = f"admin@{told.address}"
        self.options = [
            f"-oPort={told.ssh_port}", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null",
            "-oLogLevel=ERROR", "-oControlMaster=auto", f"-oControlPath={folder}/s", "-oControlPersist=yes",
            f"-oIdentityFile={self.key}",
        ]  # fmt: skip

    def run(self, program: str, *words: str) -> None:
        subprocess.run([program, *self.options, *words], check=True, stdout=subprocess.DEVNULL)


async def main() -> None:
    """Let a key in, measure, take it out again."""
    vm = VmStore(Home(Settings.read().home).prepared()).open(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ssh = Ssh(folder, vm)
        async with connect(vm.path) as channel:
            await run(channel, "sh", "-c", KEYS, stdin=ssh.key.with_suffix(".pub").read_bytes())
            try:
                await commands(channel, ssh)
                await copies(channel, ssh, folder)
                for other in sys.argv[2:]:
                    await behind_vsock(channel, other)
            finally:
                ssh.run("ssh", "-O", "exit", ssh.host)
                await run(channel, "sh", "-c", f"sed -i '$d' ~/.ssh/authorized_keys; rm -f {SENT}")


async def commands(channel: GuestChannel, ssh: Ssh) -> None:
    ours, theirs = await in_turns(
        COMMANDS,
        lambda: run(channel, "true"),
        lambda: anyio.to_thread.run_sync(ssh.run, "ssh", ssh.host, "true"),
    )
    print(f"exec true: {ours * 1000:.0f} ms, ssh {theirs * 1000:.0f} ms: {ours / theirs:.2f} of ssh's time")


async def behind_vsock(own: GuestChannel, name: str) -> None:
    vm = VmStore(Home(Settings.read().home).prepared()).open(name)
    async with connect(vm.path) as foreign:
        vsock, port = await in_turns(COMMANDS, lambda: run(foreign, "true"), lambda: run(own, "true"))
        assert (own.agent, foreign.agent) == ("tart-agent", "vsock-agent")
        print(
            f"exec true: vsock {vsock * 1000:.0f} ms, port {port * 1000:.0f} ms: {vsock / port:.2f} of the port's time"
        )
        vsock, port = await in_turns(COPIES, lambda: read(foreign), lambda: read(own))
        print(f"output: vsock {SIZE / vsock / 1e6:.1f} MB/s, port {SIZE / port / 1e6:.1f} MB/s")


async def read(channel: GuestChannel) -> None:
    """Take all that a command writes."""
    taken = 0

    async def take(data: bytes) -> None:
        nonlocal taken
        taken += len(data)

    await channel.execute(Command(name="head", args=("-c", str(SIZE), "/dev/zero")), take, take)
    assert taken == SIZE


async def copies(channel: GuestChannel, ssh: Ssh, folder: Path) -> None:
    data, back = folder / SENT, folder / "back"
    data.write_bytes(os.urandom(SIZE))
    await compared("into the guest", partial(copy_into, channel, data, SENT), ssh, (str(data), f"{ssh.host}:{SENT}"))
    await compared("out of the guest", partial(copy_from, channel, SENT, back), ssh, (f"{ssh.host}:{SENT}", str(back)))


async def compared(name: str, copy: Callable[[], Awaitable[None]], ssh: Ssh, words: tuple[str, str]) -> None:
    ours, theirs = await in_turns(COPIES, copy, lambda: anyio.to_thread.run_sync(ssh.run, "scp", *words))
    rates = [SIZE / seconds / 1e6 for seconds in (ours, theirs)]
    print(f"cp {name}: {rates[0]:.1f} MB/s, scp {rates[1]:.1f} MB/s: {theirs / ours:.2f} of scp's throughput")


async def in_turns(
    times: int, one: Callable[[], Awaitable[None]], other: Callable[[], Awaitable[None]]
) -> tuple[float, float]:
    """Seconds of each, the median; the first of each does not count."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(times + 1):
        for work, taken in zip((one, other), seconds, strict=True):
            begun = time.perf_counter()
            await work()
            taken.append(time.perf_counter() - begun)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


async def run(channel: GuestChannel, *words: str, stdin: bytes | None = None) -> None:
    """Run a command that has to succeed."""

    async def show(data: bytes) -> None:
        sys.stderr.buffer.write(data)

    async def once() -> AsyncGenerator[bytes]:
        yield stdin or b""

    command = Command(name=words[0], args=words[1:], interactive=stdin is not None)
    code = await channel.execute(command, show, show, once() if stdin is not None else None)
    assert code == 0, words


if __name__ == "__main__":
    anyio.run(main)
