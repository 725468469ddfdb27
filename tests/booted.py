"""The tiny guest of `machines`, started by the program's own hypervisor layer."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from machines import MAC, mini_guest
from tartlet.errors import ToolMissing
from tartlet.host.memory import memory_file
from tartlet.hypervisor import accel, block_nodes, firmware, nvram, process, qemu, qmp
from tartlet.hypervisor.command_line import command_line
from tartlet.hypervisor.devices import (
    GUEST_AGENT_PORT,
    Balloon,
    Device,
    Entropy,
    Graphics,
    Inputs,
    NetworkCard,
    Port,
    Ports,
    Sound,
)
from tartlet.hypervisor.disk_options import DiskOptions
from tartlet.hypervisor.firmware import FirmwareMissing
from tartlet.hypervisor.machine import Machine, Ram, machine_type

MEMORY = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Booted:
    """A running machine."""

    process: process.Process
    monitor: qmp.Monitor
    agent: socket.socket
    """The host's end of the guest agent's port; blocking, with a time limit."""
    machine: Machine


def tiny_machine(
    folder: Path, *, monitor: int, agent: int, more: tuple[Device, ...] = (), ram: Ram | None = None
) -> Machine:
    """The tiny guest with every device, its files in `folder`. Skips without QEMU and firmware."""
    try:
        version = qemu.version(qemu.find("amd64"))
        code = firmware.find("amd64", version.series)
    except (ToolMissing, FirmwareMissing) as missing:
        pytest.skip(str(missing))
    disk = folder / "disk.img"
    if not disk.exists():
        shutil.copyfile(mini_guest(), disk)
    ports = (Port(name=GUEST_AGENT_PORT, descriptor=agent), Port(name="tart-version-2.0.0"))
    return Machine(
        name="tiny, the guest",
        arch="amd64",
        type=machine_type("amd64", version.series),
        cpus=1,
        memory=MEMORY,
        accelerator=accel.choose("amd64"),
        firmware=code,
        variables=nvram.prepare(folder, code),
        monitor=monitor,
        serial_log=folder / "serial.log",
        devices=(
            Graphics(width=800, height=600, arch="amd64"),
            NetworkCard(mac=MAC, netdev="user,restrict=on"),
            block_nodes.root_disk(str(disk), "raw", DiskOptions()),
            Ports(ports=ports, console="pty"),
            Entropy(),
            Balloon(),
            Inputs(),
            Sound(),
            *more,
        ),
        ram=ram,
    )


@asynccontextmanager
async def booted(
    folder: Path, *, more: tuple[Device, ...] = (), restored: bool = False, display: tuple[str, ...] | None = None
) -> AsyncGenerator[Booted]:
    """Run the tiny guest for the length of the block."""
    ours, theirs = socket.socketpair()
    agent, agent_port = socket.socketpair()
    memory = memory_file("guest", MEMORY)
    assert memory is not None
    with ours, theirs, agent, agent_port, os.fdopen(memory, "rb"):
        agent.settimeout(30)
        machine = tiny_machine(folder, monitor=theirs.fileno(), agent=agent_port.fileno(), more=more, ram=Ram(memory))
        machine = replace(machine, restored=restored, display=display or machine.display)
        argv = command_line(qemu.find("amd64"), machine)
        async with process.spawned(argv, log_file=folder / "qemu.log", pass_fds=machine.descriptors()) as running:
            theirs.close()
            agent_port.close()
            async with qmp.connected(ours) as monitor:
                yield Booted(process=running, monitor=monitor, agent=agent, machine=machine)


async def in_guest(agent: socket.socket, command: str) -> str:
    """Run a shell command in the guest by QEMU's guest agent and return what it printed."""
    arguments = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
    started = _asked(agent, "guest-exec", arguments)
    deadline = time.monotonic() + 90
    while not (status := _asked(agent, "guest-exec-status", {"pid": started["pid"]}))["exited"]:
        if time.monotonic() > deadline:
            pytest.fail(f"{command!r} did not end in the guest")
        await anyio.sleep(0.05)
    return base64.b64decode(str(status.get("out-data", ""))).decode()


def _asked(agent: socket.socket, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    agent.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    reply = b""
    while not reply.endswith(b"\n"):
        piece = agent.recv(65536)
        assert piece, "QEMU closed the agent's port"
        reply += piece
    return cast("dict[str, Any]", json.loads(reply.lstrip(b"\xff"))["return"])
