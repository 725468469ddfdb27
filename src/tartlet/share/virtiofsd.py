"""The program that serves a folder to a guest: the one of QEMU up to 7.2, or the later one written in Rust.

It is found by QEMU's descriptors (see `hypervisor.descriptors`), else at its usual places.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import TimeoutExpired

from tartlet.errors import ToolFailed, ToolMissing
from tartlet.host.process import run_now
from tartlet.hypervisor.descriptors import preferred, standard_folders

log = logging.getLogger(__name__)

_SOURCE = "{source}"
"""The jail puts the folder there (see `jail.SOURCE`, which is not imported: it would bring much along)."""

_PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd")
_HINT = "install it: apt install virtiofsd; before Debian 13 it is part of qemu-system-common"


@dataclass(frozen=True, slots=True)
class Virtiofsd:
    """One installed virtiofsd."""

    path: str
    in_rust: bool
    can_guard: bool = False
    """Whether it can be told to let nothing be written."""

    def words(self, listener: int, *, guarded: bool = False) -> list[str]:
        """Its words in a jail; `listener` is the socket that QEMU is connected to already. `guarded`: see `can_guard`.

        What a file is called and when it changed the guest asks again after a second (`cache=auto`). Device nodes
        cannot be made. Its own sandbox is the one that asks least of the system: the jail is the stronger one.
        """
        if self.in_rust:
            return [
                *(self.path, "--fd", str(listener), "--shared-dir", _SOURCE, "--sandbox", "none", "--cache", "auto"),
                *("--announce-submounts", "--inode-file-handles=never", "--rlimit-nofile", "0"),
                *("--modcaps=-mknod", "--log-level", "error", *(["--readonly"] if guarded else [])),
            ]
        return [
            *(self.path, f"--fd={listener}", "-o", f"source={_SOURCE},sandbox=chroot,cache=auto,announce_submounts"),
            *("-o", "modcaps=-mknod,log_level=err", "--rlimit-nofile=0"),
        ]


def find(folders: Sequence[Path] | None = None) -> Virtiofsd:
    """The preferred virtiofsd of this host. `folders` of descriptors, by default the standard ones.

    Raises ToolMissing.
    """
    for path in _candidates(standard_folders("vhost-user") if folders is None else folders):
        if os.access(path, os.X_OK):
            options = _help(path)
            return Virtiofsd(path, in_rust="--shared-dir" in options, can_guard="--readonly" in options)
    raise ToolMissing("virtiofsd", _HINT)


def _candidates(folders: Sequence[Path]) -> Iterator[str]:
    for descriptor in preferred(folders):
        try:
            described = json.loads(descriptor.read_bytes())
            if described["type"] == "fs":
                yield str(described["binary"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.debug("descriptor %s is not usable: %r", descriptor, exc)
    yield from filter(None, [shutil.which("virtiofsd")])
    yield from _PLACES


@cache
def _help(path: str) -> str:
    """What it says of its options; nothing when it does not say."""
    try:
        return run_now(path, "--help", timeout=10)
    except (ToolFailed, ToolMissing, TimeoutExpired) as exc:
        log.debug("%s --help: %s", path, exc)
        return ""
