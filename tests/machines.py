"""Tiny guests for tests, and how to wait for what they say.

`mini_guest()` is a whole Linux machine on one 96 MiB disk that boots under UEFI and TCG in about six seconds, without
firmware (`mini_machine`) in three, and runs in 256 MiB. It has root at the serial console (`READY` is printed there)
and at hvc0, the QEMU guest agent, DHCP on eth0 (`ADDRESS a.b.c.d` is printed), SSH with admin/admin, shared folders of
the default tag at /mnt/shared, and it powers off at the power button. Everything lives in memory; the second partition
(`/dev/vda2`, empty) is for tests that write.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

import mini_guest_build

FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
FIRMWARE_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

_NEEDED = ("apt-get", "dpkg-deb", "cpio", "zstd", "mkfs.fat", "mcopy", "sfdisk")


MAC = "52:54:00:12:34:56"
NETDEV = "user,id=net,restrict=on"


def mini_guest() -> Path:
    """The disk of the tiny Linux guest (amd64, raw, read-only): clone or copy it, never write to it.

    Built on first use and kept under `~/.cache/tartlet-tests`, named by its recipe. Skips the test where it cannot be
    built (no apt, another architecture).
    """
    recipe = hashlib.sha256(Path(mini_guest_build.__file__).read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tartlet-tests"
    disk = cache / f"mini-guest-{recipe}.img"
    if not disk.exists():
        _skip_unless_buildable()
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / "lock"):
            if not disk.exists():
                _build(disk)
    return disk


def _build(disk: Path) -> None:
    with tempfile.TemporaryDirectory(dir=disk.parent, prefix="build-") as work:
        made = Path(work) / "disk"
        try:
            mini_guest_build.build(made, Path(work))
        except subprocess.CalledProcessError as exc:
            exc.add_note(str(exc.stderr))
            raise
        made.chmod(0o444)
        made.rename(disk)
    for old in disk.parent.glob("mini-guest-*.img"):
        if old != disk:
            old.unlink()


def _skip_unless_buildable() -> None:
    missing = [
        program for program in _NEEDED if not shutil.which(program, path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    ]
    if missing or os.uname().machine != "x86_64":
        pytest.skip(f"the tiny guest cannot be built here: {', '.join(missing) or os.uname().machine}")


@contextmanager
def _alone(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class MiniMachine:
    """A running tiny guest, started by QEMU itself and by nothing of ours."""

    pid: int
    serial_log: Path
    agent: socket.socket
    """The host's end of the QEMU guest agent's port; connected, non-blocking."""

    mac: str


@contextmanager
def mini_machine(
    folder: Path, *extra: str, mac: str = MAC, netdev: str = NETDEV, inherited: tuple[int, ...] = ()
) -> Generator[MiniMachine]:
    """Boot the tiny guest for the length of the block; its files go into `folder`. Skips without QEMU.

    QEMU loads the kernel itself: firmware and boot menu would take more than half of the processor time of a boot.
    `inherited` are descriptors that `netdev` or `extra` speak of.
    """
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("needs qemu-system-x86_64")
    serial_log = folder / "serial.log"
    ours, theirs = socket.socketpair()
    with ours, (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *_words(folder, serial_log, theirs.fileno(), mac, netdev), *extra],
            pass_fds=[theirs.fileno(), *inherited], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        theirs.close()
        ours.setblocking(False)
        try:
            yield MiniMachine(pid=process.pid, serial_log=serial_log, agent=ours, mac=mac)
        except BaseException as exc:
            exc.add_note(f"QEMU said: {text_of(folder / 'qemu.log')!r}")
            raise
        finally:
            process.kill()
            process.wait()


def _words(folder: Path, serial_log: Path, agent: int, mac: str, netdev: str) -> list[str]:
    return [
        *_kernel(folder),
        "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "256",
        "-display", "none", "-serial", f"file:{serial_log}",
        "-drive", f"if=virtio,format=raw,snapshot=on,file={mini_guest()}",
        "-device", "virtio-rng-pci",
        "-netdev", netdev, "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile=",
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=qga,fd={agent}",
        "-device", "virtserialport,id=qga-port,chardev=qga,name=org.qemu.guest_agent.0",
    ]  # fmt: skip


def _kernel(folder: Path) -> list[str]:
    """What the boot menu of the guest's disk would start, taken out of it into `folder`."""
    inside = f"{mini_guest()}@@1M"
    subprocess.run(["mcopy", "-i", inside, "::linux", "::initramfs", folder], check=True)
    entry = subprocess.run(["mtype", "-i", inside, "::loader/entries/mini.conf"], capture_output=True, check=True)
    (options,) = (line for line in entry.stdout.decode().splitlines() if line.startswith("options "))
    words = ["-kernel", str(folder / "linux"), "-initrd", str(folder / "initramfs")]
    return [*words, "-append", options.removeprefix("options ")]


async def text_in(path: Path, text: str, within: float = 60.0) -> str:
    """Wait until the file `path` holds `text`, for `within` seconds; the file's text. Fails the test otherwise."""
    deadline = time.monotonic() + within
    while text not in (found := text_of(path)):
        if time.monotonic() > deadline:
            pytest.fail(f"{text!r} did not appear in {path} within {within} s; its end: {found[-2000:]!r}")
        await anyio.sleep(0.05)
    return found


def text_of(path: Path) -> str:
    """What the file holds now; nothing when there is none yet."""
    return path.read_bytes().decode(errors="replace") if path.exists() else ""
