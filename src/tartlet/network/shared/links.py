"""Network interfaces of the namespace that the calling thread is in: bridges, their ports, and taps.

A tap is open as long as somebody has its descriptor, and gone with the last one: nothing has to be removed after a
death. It is handed to QEMU, which needs no rights for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
import struct
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from tartlet.errors import ToolFailed, ToolMissing

TUN = Path("/dev/net/tun")
_VHOST = Path("/dev/vhost-net")
OUR_MACS = "02:74:61:72:74:"
"""How the MAC addresses of our bridges begin: locally administered, then `tart` in ASCII."""

BRIDGED_TAP_PREFIX = "tartb"
"""Not as the taps of the shared network are called, whose guard drops what no rule of it has seen."""

_TUNSETIFF, _TUNSETOWNER = 0x400454CA, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")
"""`struct ifreq` as linux/if_tun.h uses it: a name and flags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """One end of a cable; the other end is a guest's network card."""

    name: str
    descriptor: int
    """-1 for one that somebody else has open."""

    def close(self) -> None:
        """Give up this process's copy."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


def open_tap(name: str) -> Tap:
    """A new tap, whose headers let guest and host leave checksums and splitting to each other. Raises OSError.

    For `%d` in the name the kernel puts the first free number.
    """
    descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        asked = _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        given, _ = _IFREQ.unpack(fcntl.ioctl(descriptor, _TUNSETIFF, asked))
    except OSError:
        os.close(descriptor)
        raise
    return Tap(name=given.rstrip(b"\0").decode(), descriptor=descriptor)


def netdev(descriptor: int) -> str:
    """QEMU's words for a tap; the kernel carries the packets between tap and guest where this user may have that."""
    vhost = "on" if os.access(_VHOST, os.R_OK | os.W_OK) else "off"
    return f"tap,fd={descriptor},vhost={vhost}"


def make_bridge(name: str, address: IPv4Interface) -> int:
    """A bridge without spanning tree, with an address of its own, up; gives its number. Raises ToolFailed, ToolMissing.

    Its MAC address is fixed by its name. Else it would be that of one of its ports, and change when that one goes.
    """
    mac = OUR_MACS + f"{name.encode()[-1]:02x}"
    batch("ip", f"link add {name} address {mac} type bridge stp_state 0 forward_delay 0",
          f"addr add {address} dev {name}", f"link set {name} up")  # fmt: skip
    return socket.if_nametoindex(name)


def is_ours(bridge: str) -> bool:
    """Whether an interface of this name is one that `make_bridge` made. Raises ToolFailed, ToolMissing."""
    described = _described(bridge)
    return described is not None and str(described["address"]).startswith(OUR_MACS)


def tap_owner(name: str) -> int | None:
    """The user whom `give_tap` gave a tap; None when there is no such tap. Raises ToolFailed, ToolMissing."""
    described = _described(name)
    user: Any = (described or {}).get("linkinfo", {}).get("info_data", {}).get("user")
    if user is None:
        return None
    return int(user) if str(user).isdecimal() else pwd.getpwnam(user).pw_uid


def give_tap(tap: Tap, user: int) -> None:
    """Write down in the kernel whose tap it is. Raises OSError."""
    fcntl.ioctl(tap.descriptor, _TUNSETOWNER, user)


def remove(name: str) -> None:
    """Take an interface away, whoever holds it; nothing happens when there is none. Raises ToolFailed, ToolMissing."""
    if _described(name) is not None:
        batch("ip", f"link del dev {name}")


def plug_in(tap: str, bridge: str, mac: str, *, isolated: bool) -> None:
    """Make the tap a port of the bridge through which only frames of `mac` come in.

    A locked port drops frames from any other MAC address in the kernel's bridge itself, whatever the packet filter
    does. Isolated ports exchange nothing with each other. Raises ToolFailed, ToolMissing.
    """
    batch("ip", f"link set {tap} master {bridge}", f"link set {tap} up")
    batch("bridge", f"fdb replace {mac} dev {tap} master static",
          f"link set dev {tap} learning off isolated {_word(isolated)} locked on")  # fmt: skip


def unplug(tap: str) -> None:
    """Take the tap off its bridge, if it is there still. Raises ToolFailed, ToolMissing."""
    if _described(tap) is not None:
        batch("ip", f"link set {tap} nomaster")


def set_isolated(tap: str, isolated: bool) -> None:
    """Whether the port exchanges nothing with other isolated ports. Raises ToolFailed, ToolMissing."""
    batch("bridge", f"link set dev {tap} isolated {_word(isolated)}")


def batch(program: str, *commands: str) -> None:
    """Have iproute2's `ip` or `bridge` carry out commands, one after the other. Raises ToolFailed, ToolMissing."""
    _told([program, "-batch", "-"], "\n".join(commands), [program, *commands])


def _described(name: str) -> dict[str, Any] | None:
    """What `ip` tells of an interface; None when there is none."""
    if name not in (known for _, known in socket.if_nameindex()):
        return None
    words = ["ip", "-json", "-details", "link", "show", "dev", name]
    found: list[dict[str, Any]] = json.loads(_told(words, "", words))
    return found[0]


def _told(words: list[str], given: str, named: list[str]) -> str:
    """What a program prints; `named` are the words that stand for it in an error."""
    try:
        done = subprocess.run(words, input=given.encode(), capture_output=True, check=False, timeout=10)
    except FileNotFoundError as exc:
        raise ToolMissing(words[0], "install it: apt install iproute2") from exc
    if done.returncode:
        told = done.stderr.decode(errors="replace").splitlines()
        raise ToolFailed(named, done.returncode, "; ".join(line for line in told if "Command fail" not in line))
    return done.stdout.decode(errors="replace")


def _word(flag: bool) -> str:
    return "on" if flag else "off"
