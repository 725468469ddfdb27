"""Programs of another processor on this machine: QEMU's user-mode emulator, as the kernel starts it (binfmt_misc).

Linux 6.7 gives each user namespace a table of emulators of its own, so an ordinary user needs no change to the
machine. Source: the kernel's Documentation/admin-guide/binfmt-misc.rst; the marks are those of the ELF header.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from tartlet.build.suites import ARCHITECTURES
from tartlet.errors import UserError

_TABLE = Path("/proc/sys/fs/binfmt_misc")
_MACHINES = {"amd64": ("x86_64", r"\x3e\x00"), "arm64": ("aarch64", r"\xb7\x00")}
"""QEMU's name of the processor, and the processor's number in the ELF header."""
_ELF64 = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"
_MASK = r"\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


class CannotEmulate(UserError):
    """Programs of that architecture do not run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What decides whether a foreign program runs."""

    machine: str
    table: Path
    """Where the kernel shows its table of emulators."""
    own_table: bool
    """Whether this user's builds can have a table of their own."""


def this_host() -> Host:
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    return Host(machine=platform.machine(), table=_TABLE, own_table=os.geteuid() != 0 and release >= (6, 7))


def registration(architecture: str, host: Host) -> str | None:
    """The line to register an emulator with in a build's own table; None when programs of that kind run anyway.

    Raises CannotEmulate.
    """
    if ARCHITECTURES.get(host.machine) == architecture:
        return None
    name, number = _MACHINES[architecture]
    entry = host.table / f"qemu-{name}"
    if entry.is_file() and entry.read_text().startswith("enabled"):
        return None
    program = shutil.which(f"qemu-{name}-static") or shutil.which(f"qemu-{name}")
    if program is None:
        raise CannotEmulate(
            f"this machine cannot run the programs of an {architecture} guest", "apt install qemu-user-static"
        )
    if not host.own_table:
        raise CannotEmulate(
            f"the kernel of this machine does not start {architecture} programs by qemu-{name}",
            f"as root: mount -t binfmt_misc binfmt_misc {_TABLE}; update-binfmts --enable qemu-{name}",
        )
    return f":qemu-{name}:M::{_ELF64}{number}:{_MASK}:{program}:OCF"


def registered(line: str, words: list[str]) -> list[str]:
    """The words that run `words` after the line was put into the own table; for root of a user namespace only."""
    script = f'mount -t binfmt_misc binfmt_misc {_TABLE} && printf %s "$0" > {_TABLE}/register && exec "$@"'
    return ["sh", "-c", script, line, *words]
