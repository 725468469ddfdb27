"""The privileged process for the host's own network, which in a test is the network of a namespace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leftovers import process_ids
from vm_lab import is_child, until, words_of

_MACHINES = os.readlink("/proc/self/ns/net")
_START = "export LISTEN_FDS=1 LISTEN_PID=$$; exec 3<&0; exec " + '"$@"'


def things_left() -> list[str]:
    """Interfaces and tables of this thread's namespace that are of our making."""
    told = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    tables = [line for line in told.splitlines() if " tart_" in line]
    return [*tables, *(name for _, name in socket.if_nameindex() if name.startswith("tart"))]


def processes() -> dict[str, int]:
    """The privileged process of this thread's network namespace, and what it started, by name."""
    here = os.readlink("/proc/thread-self/ns/net")
    found = dict[str, int]()
    for pid in process_ids():
        if b"tartlet.network.bridge.host_process" in words_of(pid).split(b"\0") and _network_of(pid) == here:
            found["process"] = pid
    for pid in process_ids():
        words = words_of(pid).split(b"\0")
        if is_child(pid, found.get("process", -1)):
            found["caretaker" if words[0] == b"/bin/sh" else os.path.basename(words[0]).decode()] = pid
    return found


def gone(within: float = 10) -> None:
    """Wait until nothing of the network is left."""
    until(lambda: not things_left(), "the network to end", within)
    until(lambda: not processes(), "its processes to end", within)


@contextmanager
def installed(
    folder: Path, mode: int = 0o666, as_somebody: Sequence[str] = (), variables: dict[str, str] | None = None
) -> Generator[Path]:
    """The process as a service manager runs it, started by the first connection; gives its socket.

    `as_somebody` are words before the program's: it runs as root without.
    """
    assert os.readlink("/proc/thread-self/ns/net") != _MACHINES, "not in the machine's own network"
    path = folder / "net.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(64)
        program = [sys.executable, "-P", "-m", "tartlet.network.bridge.host_process"]
        words = [*as_somebody, "sh", "-c", _START, "sh", *program]
        with (folder / "process.log").open("wb") as log:
            service = subprocess.Popen(
                words, stdin=listener.fileno(), stderr=log, env={**os.environ, **(variables or {})}
            )
        try:
            yield path
        finally:
            service.kill()
            service.wait()
            path.unlink()


def _network_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended
        return ""
