"""A home with the tiny guest in it, and `tart` called as its users call it, inside a network that leads nowhere.

Booting takes seconds, resuming half of one: the guest is booted once for a whole run of tests and suspended, and each
test gets that home under a name of its own, with nothing copied that nobody writes to.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

import tartlet
from command import TART, Called, surroundings
from guest_channels import Heard, heard
from leftovers import process_ids, survivors
from machines import mini_guest
from namespaces import Namespace
from tartlet.vm.stored.folder import VmFolder

HEADLESS = ("--no-graphics",)
BACKGROUND = ("--no-graphics", "--detach", "--wait-ready")


@dataclass(frozen=True, kw_only=True)
class Lab:
    """One home."""

    home: Path
    network: Namespace

    def tart(self, *words: str, stdin: bytes = b"", timeout: float = 60, cwd: Path | None = None) -> Called:
        """Run the command to its end."""
        done = subprocess.run(
            self.network.words(TART, *words),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            env=surroundings(self.home),
            cwd=cwd,
        )
        return Called(done.returncode, done.stdout.decode(), done.stderr.decode())

    def done(self, *words: str, timeout: float = 60) -> str:
        """Run the command, which has to succeed; what it printed."""
        called = self.tart(*words, timeout=timeout)
        assert called.code == 0, (words, called)
        return called.out

    @contextmanager
    def started(self, *words: str) -> Generator[subprocess.Popen[str]]:
        """The command beside the test, standard error into standard output. It is killed at the end, if need be."""
        with subprocess.Popen(
            self.network.words(TART, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=surroundings(self.home),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def running(self, name: str = "mini", *more: str, timeout: float = 100) -> Generator[str]:
        """The VM runs and its agent answers, for the length of the block; what the command said.

        It is stopped too when the test's time ends while it starts.
        """
        try:
            started = self.tart("run", name, *BACKGROUND, *more, timeout=timeout)
            assert started.code == 0, (started, self.vm(name).qemu_log_path.read_text()[-2000:])
            yield started.out
        finally:
            self.end(name)

    def end(self, name: str = "mini") -> None:
        """Stop whatever runs under that name."""
        if self.vm(name).supervisor():
            self.tart("stop", name)

    def vm(self, name: str = "mini") -> VmFolder:
        """The folder of a VM."""
        return VmFolder(name, self.home / "vms" / name)

    def state(self, name: str = "mini") -> str:
        """Its state, as `tart list` tells it."""
        entries = tartlet.local_entries(tartlet.VmStore(tartlet.Home(self.home)))
        return next(str(entry.state) for entry in entries if entry.name == name)

    def sh(self, script: str, name: str = "mini", *, user: str = "") -> str:
        """What a shell script prints in the guest, where it has to succeed; as by `tart exec`, in this process."""
        said = anyio.run(_heard, self.vm(name).path, script, user)
        assert said.code == 0, (script, said)
        return said.out.decode().strip()

    def supervisor(self, name: str = "mini", within: float = 40) -> int:
        """The process that runs the VM, waited for."""
        until(lambda: self.vm(name).supervisor() != 0, f"{name} to run", within)
        return self.vm(name).supervisor()

    def qemu(self, name: str = "mini") -> int:
        """The QEMU of a running VM."""
        supervisor = self.vm(name).supervisor()
        (pid,) = (pid for pid in process_ids() if is_child(pid, supervisor) and b"qemu-system" in words_of(pid))
        return pid

    def copied(self, home: Path) -> Lab:
        """The same VMs in another home on this file system. What nobody writes to is linked."""
        shutil.copytree(self.home, home, copy_function=_linked_or_copied, symlinks=True)
        return Lab(home=home, network=self.network)


def made(home: Path, network: Namespace, *, name: str = "mini") -> Lab:
    """A home with a stopped tiny guest in it, on a raw disk."""
    lab = Lab(home=home, network=network)
    lab.done("create", "--linux", name)
    lab.done("set", name, "--disk", str(mini_guest()), "--cpu", "1", "--memory", "256")
    return lab


async def _heard(folder: Path, script: str, user: str) -> Heard:
    command = tartlet.Command(name="sh", args=("-c", script), user=user)
    with anyio.fail_after(60):
        async with tartlet.connect(folder) as channel:
            return await heard(channel, command=command)


def _linked_or_copied(source: str, target: str) -> None:
    name = os.path.basename(source)
    if name.startswith("base") or name == "state.vzvmsave":
        os.link(source, target)
    elif name == "machine" or re.search(r"\.(img|bin|json|log|iso)$", name):
        subprocess.run(["cp", "-p", "--sparse=always", source, target], check=True)


def until(true: Callable[[], bool], what: str, within: float = 40) -> None:
    """Wait for something nobody tells of. Fails the test when it does not come.

    After each look there is a pause as long as the look was: a command that is called again and again would else take
    from an emulated guest the processor that it is waited for with.
    """
    deadline = time.monotonic() + within
    while True:
        begun = time.monotonic()
        if true():
            return
        assert time.monotonic() < deadline, f"waited {within} s in vain for {what}"
        time.sleep(max(0.01, time.monotonic() - begun))


def is_child(pid: int, parent: int) -> bool:
    """Whether `parent` started `pid`."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False


def words_of(pid: int) -> bytes:
    """The words a process was started with; none once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@contextmanager
def leaving_nobody(grace: float = 15) -> Generator[None]:
    """Every process that was started in the block has ended at its end, helpers too."""
    before = process_ids()
    yield
    assert survivors(before, grace) == []


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to one process that the tests started."""
    os.kill(pid, number)
