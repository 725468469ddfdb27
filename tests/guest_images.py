"""The guests that `--from-distro` builds, for the tests that need a whole system; built once and kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import anyio
import pytest

import tartlet.build
from machines import FIRMWARE, FIRMWARE_VARIABLES
from tartlet.build.distro import from_distro
from tartlet.build.emulation import CannotEmulate
from tartlet.build.requirements import CannotBuild
from tartlet.build.root_folder import PackagesFailed
from tartlet.build.sandbox import NoNamespace
from tartlet.host.files import removed
from tartlet.hypervisor.shared_folder import SharedFolder

_KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tartlet-tests" / "distros"


def _code() -> str:
    """What builds guests, in short: after a change of it a guest is built anew, although its recipe is the same."""
    told = hashlib.sha256()
    for path in sorted(Path(tartlet.build.__file__).parent.rglob("*.py")):
        told.update(path.read_bytes())
    return told.hexdigest()[:16]


CACHE = _KEPT / _code()


@cache
def debian_image(name: str = "debian:bookworm", architecture: str | None = None) -> Path:
    """The raw, read-only disk of a Debian guest; stand on it or copy it.

    The first call of all takes a minute and needs a Debian mirror, so its test needs a time limit of some minutes.
    Skips the test where no guest can be built.
    """
    try:
        # In a thread of its own, because a test may call this from within an event loop.
        with ThreadPoolExecutor(max_workers=1) as thread:
            build = partial(from_distro, name, cache=CACHE, architecture=architecture)
            disk = thread.submit(anyio.run, build).result()
    except PackagesFailed:
        raise
    except (CannotBuild, CannotEmulate, NoNamespace) as exc:
        pytest.skip(str(exc))
    _forget_older(disk.parent)
    return disk


def _forget_older(current: Path) -> None:
    """Every change of a recipe, or of what builds, leaves a disk of half a gigabyte.

    A disk somebody has open stays until it is closed.
    """
    recipe = json.loads((current / "recipe.json").read_text())
    for entry in _KEPT.glob("*/*/recipe.json"):
        try:
            other = json.loads(entry.read_text())
        except FileNotFoundError:  # another run of the tests was faster
            continue
        same = all(other[part] == recipe[part] for part in ("distribution", "codename", "architecture"))
        if same and entry.parent != current:
            removed(entry.parent)


@dataclass(frozen=True, kw_only=True)
class DebianMachine:
    """A running Debian guest without a network, started by QEMU itself."""

    serial_log: Path
    agent: socket.socket
    """The host's end of the guest agent's port."""


@contextmanager
def debian_machine(
    folder: Path, disk: Path, *extra: str, folders: Sequence[SharedFolder] = ()
) -> Generator[DebianMachine]:
    """Boot the amd64 guest on the qcow2 or raw disk `disk` for the length of the block. Skips without QEMU and OVMF."""
    program = shutil.which("qemu-system-x86_64")
    if program is None or not FIRMWARE.exists():
        pytest.skip("needs qemu-system-x86_64 and OVMF")
    variables, serial_log = folder / "variables.fd", folder / "serial.log"
    shutil.copyfile(FIRMWARE_VARIABLES, variables)
    ours, theirs = socket.socketpair()
    with ours, (folder / "qemu.log").open("wb") as log:
        words = [*_words(variables, serial_log, theirs.fileno(), disk), *_sharing(folders), *extra]
        inherited = [theirs.fileno(), *(descriptor for shared in folders for descriptor in shared.descriptors())]
        process = subprocess.Popen(
            [program, *words], pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        theirs.close()
        ours.settimeout(120)
        try:
            yield DebianMachine(serial_log=serial_log, agent=ours)
        finally:
            process.kill()
            process.wait()


def overlay_on(disk: Path, target: Path, size: str) -> Path:
    """A new qcow2 file of `size` that stands on the raw `disk`."""
    words: Sequence[str] = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(target), size)
    subprocess.run(words, check=True)
    return target


def _sharing(folders: Sequence[SharedFolder]) -> list[str]:
    if not folders:
        return []
    memory = ["-object", "memory-backend-memfd,id=shared,size=1024M,share=on", "-machine", "memory-backend=shared"]
    return [*memory, *(word for shared in folders for word in shared.words())]


def _words(variables: Path, serial_log: Path, agent: int, disk: Path) -> list[str]:
    return [
        "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1",
        "-m", "1024", "-display", "none", "-nic", "none", "-serial", f"file:{serial_log}",
        "-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}",
        "-drive", f"if=pflash,format=raw,file={variables}",
        "-drive", f"if=virtio,file={disk},discard=unmap,cache=unsafe",
        "-device", "virtio-rng-pci",
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=qga,fd={agent}",
        "-device", "virtserialport,id=qga-port,chardev=qga,name=org.qemu.guest_agent.0",
    ]  # fmt: skip
