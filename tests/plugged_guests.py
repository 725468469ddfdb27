"""Real guests on a network backend, and the servers and clients of the host that they meet."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from booted import in_guest
from machines import MiniMachine, mini_guest, mini_machine, text_in
from tartlet.network.attachment import Attachment, AttachRequest, NetworkMode
from tartlet.network.backend import NetworkBackend, attached

MAC = "7a:65:e4:3f:be:01"
SECRET, PUBLIC = "loopback-only", "for-everybody"
BEND_LOOPBACK = (
    "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo; "
    "ip route flush table local dev lo; ip route add 127.0.0.1/32 via 10.0.2.2 dev eth0 onlink"
)
"""What an administrator of the guest does to send packets for 127.0.0.1 to the network process."""


@dataclass(frozen=True, kw_only=True)
class Plugged:
    """A guest on its network."""

    attachment: Attachment
    guest: MiniMachine

    async def heard(self, address: str, port: int) -> str:
        """What a server says to the guest; empty when the guest cannot connect."""
        return await in_guest(self.guest.agent, f"sleep 2 | timeout 3 nc {address} {port} 2>/dev/null")


@asynccontextmanager
async def plugged(
    folder: Path, backend: NetworkBackend, mode: NetworkMode, *, vm: str = "tiny", mac: str = MAC
) -> AsyncGenerator[Plugged]:
    """A guest that has its address and an SSH server, for the length of the block."""
    mini_guest()  # built, if it has to be, before the network has no way out
    async with attached(AttachRequest(vm=vm, mac=mac, mode=mode), backends=(backend,)) as attachment:
        (cable,) = attachment.cables
        kind, _, options = cable.netdev.partition(",")
        netdev = f"{kind},id=net,{options}"
        with mini_machine(folder, mac=mac, netdev=netdev, inherited=cable.descriptors) as guest:
            guest.agent.settimeout(30)
            await text_in(guest.serial_log, f"ADDRESS {attachment.record.guest_address}")
            await _ssh_up(guest)
            yield Plugged(attachment=attachment, guest=guest)


async def _ssh_up(guest: MiniMachine) -> None:
    """Wait until the guest's SSH server listens."""
    await in_guest(guest.agent, "for i in $(seq 100); do netstat -tln | grep -q ':22 ' && break; usleep 100000; done")


@contextmanager
def saying(text: str, address: str, port: int) -> Generator[None]:
    """A server that says `text` to whoever connects."""
    with socket.create_server((address, port)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(text.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


async def over_ssh(attachment: Attachment, command: str) -> str:
    """What a user's `ssh` gets, with the address and port of the record."""
    return await anyio.to_thread.run_sync(_over_ssh, attachment, command)


def _over_ssh(attachment: Attachment, command: str) -> str:
    if shutil.which("sshpass") is None or shutil.which("ssh") is None:
        pytest.skip("needs ssh and sshpass")
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10", "LogLevel=ERROR")
    words = [word for option in options for word in ("-o", option)]
    port, target = str(attachment.record.ssh_port), f"admin@{attachment.record.address}"
    done = subprocess.run(
        ["sshpass", "-e", "ssh", *words, "-p", port, target, command],
        env={**os.environ, "SSHPASS": "admin"}, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
