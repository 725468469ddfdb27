"""A VNC server on the host's loopback address, with a password that exists only in memory."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from tartlet.hypervisor.qmp import Monitor

WORDS = 4
"""Words of a password: 44 bits in all."""

PASSWORD_BYTES = 8
"""What classic VNC authentication uses of a password (RFC 6143, 7.2.2); clients cut it in the same way."""

_LAST_DISPLAY = 1000
"""QEMU takes the first free port from 5900 on; it tries this many."""


@dataclass(frozen=True, slots=True)
class VncServer:
    """A VNC server that is listening."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """For a viewer, the password in it."""
        return f"vnc://:{self.password}@127.0.0.1:{self.port}"


def private_words() -> list[str]:
    """QEMU's words for a server that listens nowhere: only whom the monitor hands over gets in (`add_vnc_client`)."""
    return ["-vnc", "none"]


def words() -> list[str]:
    """QEMU's words for the server. Nobody gets in before `listening` has set a password."""
    return ["-vnc", f"127.0.0.1:0,to={_LAST_DISPLAY},password=on"]


def new_password() -> str:
    """Four words of the 2048 of BIP-39, each drawn alone, joined by `-`."""
    from mnemonic import Mnemonic

    known = Mnemonic("english").wordlist
    return "-".join(secrets.choice(known) for _ in range(WORDS))


async def listening(monitor: Monitor, password: str | None = None) -> VncServer:
    """Give the server its password, over the monitor, and tell where it listens. Raises CommandFailed."""
    password = password or new_password()
    await monitor.set_vnc_password(password[:PASSWORD_BYTES])
    return VncServer(await monitor.vnc_port(), password)
