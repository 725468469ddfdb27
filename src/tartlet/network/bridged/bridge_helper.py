"""`qemu-bridge-helper`: a program of QEMU that makes ports of the bridges an administrator has listed, for anybody.

It needs rights that distributions do not give it by themselves, and the bridge in its list, `/etc/qemu/bridge.conf`.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tartlet.errors import UserError

NAME = "qemu-bridge-helper"
LIST = "/etc/qemu/bridge.conf"
_FOLDERS = ("/usr/lib/qemu", "/usr/libexec", "/usr/lib", "/usr/local/libexec", "/usr/local/lib/qemu")
"""Where distributions put it; it is in nobody's PATH."""

_PATIENCE = 10.0


class HelperRefused(UserError):
    """The program did not make a port."""

    def __init__(self, bridge: str, told: str) -> None:
        super().__init__(f"{NAME} does not plug a VM into {bridge}: {told}", list_hint(bridge))


def list_hint(bridge: str) -> str:
    """How an administrator allows the bridge."""
    return f"echo 'allow {bridge}' | sudo tee -a {LIST}"


def find(folders: Sequence[str] = _FOLDERS) -> Path | None:
    """Where the program is; None where it is not installed."""
    found = shutil.which(NAME, path=os.pathsep.join(folders))
    return Path(found) if found else None


def has_rights(program: Path) -> bool:
    """Whether it may change the host's network when an ordinary user starts it (capabilities(7), chmod(1))."""
    status = program.stat()
    if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:  # it has none
        return False


def port_of(program: Path, bridge: str) -> int:
    """A descriptor of a new tap that is a port of the bridge. Raises HelperRefused, subprocess.TimeoutExpired."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            done = subprocess.run(
                [program, "--use-vnet", f"--br={bridge}", f"--fd={theirs.fileno()}"],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False, timeout=_PATIENCE,
            )  # fmt: skip
        if done.returncode:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise HelperRefused(bridge, told[-1] if told else f"exit status {done.returncode}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    return descriptors[0]
