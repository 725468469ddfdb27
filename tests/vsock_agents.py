"""An agent as guests made for the original have it, as a process of this host, and what leads to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tartlet.guest.rpc import agent_pb2
from tartlet.guest.service.vsock_agent import PORT

PROGRAM = Path(__file__).parent / "vsock_guest_agent.py"


class Wire:
    """In the place of a VM's vsock device: leads to the agent's socket."""

    transport = "a wire"
    possible = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_plugged = False

    async def connect(self, port: int, within: float, when_new: float) -> socket.socket:
        assert (port, within < when_new) == (PORT, True)
        self.is_plugged = True
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        return sock

    async def empty(self) -> None:
        self.is_plugged = False


@contextmanager
def vsock_agent(path: Path) -> Generator[subprocess.Popen[bytes]]:
    """The agent, which serves at `path`."""
    beside = os.pathsep.join([str(Path(agent_pb2.__file__).parent), *sys.path])
    path.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, PROGRAM, path], env={**os.environ, "PYTHONPATH": beside})
    try:
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
