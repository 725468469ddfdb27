"""A served `control.sock` for tests, and what a client of it hears."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tartlet.guest.commands import Command
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.commands import QgaCommands
from tartlet.guest.rpc.channel import GuestChannel
from tartlet.guest.service.agents import GuestAgents
from tartlet.guest.service.service import serving
from tartlet.guest.service.vsock_agent import VsockAgent
from tartlet.host.sockets import listening


class NoVsock:
    """A VM that cannot have a vsock device."""

    transport = "nothing"
    possible = is_plugged = False

    async def connect(self, port: int, within: float, when_new: float) -> socket.socket:
        raise AssertionError(port, within, when_new)

    async def empty(self) -> None:
        raise AssertionError


@asynccontextmanager
async def served(folder: Path, port: socket.socket, mac: str) -> AsyncGenerator[QemuGuestAgent]:
    """Serve the folder's control socket with the agent behind `port`, which is up."""
    agent = QemuGuestAgent(port)
    agent.port_opened()
    with only(agent, mac) as agents, listening(folder, "control.sock") as listener:
        async with serving(listener, agents):
            yield agent


@contextmanager
def only(agent: QemuGuestAgent, mac: str) -> Generator[GuestAgents]:
    """The agents of a VM in which ours never comes."""
    with socket.socket(socket.AF_UNIX) as nobody:
        yield GuestAgents(TartAgent(nobody), QgaCommands(agent, mac), VsockAgent(NoVsock(), 0))


@dataclass
class Heard:
    """One command's output and how it ended."""

    code: int | None = None
    out: bytes = b""
    err: bytes = b""

    async def take_out(self, data: bytes) -> None:
        self.out += data

    async def take_err(self, data: bytes) -> None:
        self.err += data


async def heard(
    channel: GuestChannel, *words: str, stdin: bytes | None = None, command: Command | None = None
) -> Heard:
    """Run words, or a command, and keep what is heard."""
    said = Heard()
    asked = command or Command(name=words[0], args=words[1:], interactive=stdin is not None)
    pieces = None if stdin is None else once(stdin)
    said.code = await channel.execute(asked, said.take_out, said.take_err, pieces)
    return said


async def once(data: bytes) -> AsyncIterator[bytes]:
    """An input of one piece; of none when it is empty."""
    if data:
        yield data
