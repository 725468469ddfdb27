"""Our own agent, the file that runs in guests, as a process of this host at the other end of a socket pair."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from guest_channels import NoVsock
from machines import MAC
from tartlet.guest.own_agent import tart_agent
from tartlet.guest.own_agent.port_session import TartAgent
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.commands import QgaCommands
from tartlet.guest.service.agents import GuestAgents
from tartlet.guest.service.service import serving
from tartlet.guest.service.vsock_agent import VsockAgent
from tartlet.host.sockets import listening

AGENT = Path(tart_agent.__file__)


def started(port: socket.socket, python: str = sys.executable) -> subprocess.Popen[bytes]:
    """The agent, serving the guest's end of a port."""
    words = [python, "-I", str(AGENT), "--descriptor", str(port.fileno())]
    return subprocess.Popen(words, pass_fds=[port.fileno()], stdin=subprocess.DEVNULL)


def ended(process: subprocess.Popen[bytes]) -> None:
    """Make sure that it is gone."""
    process.kill()
    process.wait()


@contextmanager
def agent_process(python: str = sys.executable) -> Generator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """The host's end of a port, and the agent at its other end, which ends with the port."""
    ours, theirs = socket.socketpair()
    with ours:
        process = started(theirs, python)
        theirs.close()
        try:
            yield ours, process
            ours.shutdown(socket.SHUT_RDWR)
            process.wait(10)
        finally:
            ended(process)


@asynccontextmanager
async def agents_served(
    folder: Path, port: socket.socket, vsock: VsockAgent | None = None
) -> AsyncGenerator[GuestAgents]:
    """Serve the folder's control socket with our own agent behind `port`, or another one behind `vsock` alone."""
    with socket.socket(socket.AF_UNIX) as nobody, listening(folder, "control.sock") as listener:
        qemu = QgaCommands(QemuGuestAgent(nobody), MAC)
        agents = GuestAgents(TartAgent(port), qemu, vsock or VsockAgent(NoVsock(), 0))
        if vsock is None:
            agents.own.port_opened()
        async with serving(listener, agents):
            yield agents
