"""Private network namespaces for tests: what runs inside cannot send a packet to another machine.

A namespace has its own loopback, on which guests and tests meet, and if asked an uplink that leads to nobody: a cable
whose other end is in the same namespace. It is held by a sleeping process and goes with it, so that nothing is left
behind even when the tests are killed. As root the namespace belongs to the system; without root it is made in a user
namespace, in which the tests' programs seem to run as root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

UPLINK_ADDRESS = "192.0.2.7"
"""The namespace's own address on its uplink (RFC 5737: documentation)."""

_READY = "ready"
_CLONE_NEWNET = 0x40000000
_LOOPBACK = "ip link set lo up"
_UPLINK = (
    f"ip link add up0 type veth peer name up1 && ip addr add {UPLINK_ADDRESS}/24 dev up0 && "
    "ip link set up0 up && ip link set up1 up && ip route add default via 192.0.2.1"
)


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A network of its own."""

    holder: int
    """The process that keeps it."""
    as_root: bool

    def words(self, *argv: str | os.PathLike[str]) -> list[str]:
        """`argv` as words that run inside."""
        entering = ["nsenter", "--target", str(self.holder), "--net"]
        if not self.as_root:
            entering += ["--user", "--preserve-credentials"]
        return [*entering, "--", *(os.fspath(word) for word in argv)]

    def run(self, *argv: str | os.PathLike[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; its output as text. A failing status is the caller's to judge."""
        return subprocess.run(self.words(*argv), capture_output=True, text=True, check=False, timeout=timeout)

    def python(self, script: str | Path, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a Python script of the tests inside, with this interpreter and its packages."""
        return self.run(sys.executable, os.fspath(script), *words, timeout=timeout)


@contextmanager
def namespace(*, uplink: bool = False, low_ports: bool = True) -> Generator[Namespace]:
    """A network namespace for the length of the block; skips where the system allows none.

    `uplink` adds an interface with a default route that leads nowhere. Without `low_ports` port 22 is privileged, and
    in a user namespace it is not to be had.
    """
    as_root = os.geteuid() == 0
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    low = f"echo {22 if low_ports else 1024} > /proc/sys/net/ipv4/ip_unprivileged_port_start"
    steps = [_LOOPBACK, low, *([_UPLINK] if uplink else []), f"echo {_READY}", "exec cat"]
    unshare = ["unshare", "--net", *([] if as_root else ["--user", "--map-root-user"])]
    # `cat` ends when its input does: with this process, at the latest.
    with subprocess.Popen(
        [*unshare, "sh", "-c", " && ".join(steps)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as holder:
        try:
            _await_ready(holder, unshare)
            yield Namespace(holder=holder.pid, as_root=as_root)
        finally:
            holder.kill()


@contextmanager
def entered(inside: Namespace) -> Generator[None]:
    """Have this thread, and the programs and threads it starts, inside for the length of the block.

    Threads that run already stay outside. Skips without root: a process with threads cannot enter a user namespace.
    """
    if not inside.as_root:
        pytest.skip("needs root to enter a network namespace")
    with Path("/proc/thread-self/ns/net").open("rb") as outside:
        with Path(f"/proc/{inside.holder}/ns/net").open("rb") as target:
            _set_namespace(target.fileno())
        try:
            yield
        finally:
            _set_namespace(outside.fileno())


@pytest.fixture
def private_network() -> Generator[Namespace]:
    """A network with a loopback and an uplink that leads nowhere."""
    with namespace(uplink=True) as made:
        yield made


@pytest.fixture
def inside_private_network(private_network: Namespace) -> Generator[Namespace]:
    """The test itself runs in the private network."""
    with entered(private_network):
        yield private_network


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _await_ready(holder: subprocess.Popen[bytes], words: Sequence[str]) -> None:
    assert holder.stdout is not None
    assert holder.stderr is not None
    if holder.stdout.readline().strip() != _READY.encode():
        told = holder.stderr.read().decode(errors="replace").strip()
        pytest.skip(f"{' '.join(words)} is not possible here: {told}")
