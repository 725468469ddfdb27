"""Network interfaces of the namespace that the calling thread is in: bridges, their ports, and taps.

A tap is open as long as somebody has its descriptor, and gone with the last one: nothing has to be removed after a
death. It is handed to QEMU, which needs no rights for it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from tartlet.errors import ToolFailed, ToolMissing

TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")
"""`struct ifreq` as linux/if_tun.h uses it: a name and flags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """One end of a cable; the other end is a guest's network card."""

    name: str
    descriptor: int


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


def make_bridge(name: str, address: IPv4Interface) -> None:
    """A bridge without spanning tree, with an address of its own, up. Raises ToolFailed, ToolMissing."""
    batch("ip", f"link add {name} type bridge stp_state 0 forward_delay 0", f"addr add {address} dev {name}",
          f"link set {name} up")  # fmt: skip


def plug_in(tap: str, bridge: str, mac: str, *, isolated: bool) -> None:
    """Make the tap a port of the bridge through which only frames of `mac` come in.

    A locked port drops frames from any other MAC address in the kernel's bridge itself, whatever the packet filter
    does. Isolated ports exchange nothing with each other. Raises ToolFailed, ToolMissing.
    """
    batch("ip", f"link set {tap} master {bridge}", f"link set {tap} up")
    batch("bridge", f"fdb add {mac} dev {tap} master static",
          f"link set dev {tap} learning off isolated {_word(isolated)} locked on")  # fmt: skip


def set_isolated(tap: str, isolated: bool) -> None:
    """Whether the port exchanges nothing with other isolated ports. Raises ToolFailed, ToolMissing."""
    batch("bridge", f"link set dev {tap} isolated {_word(isolated)}")


def batch(program: str, *commands: str) -> None:
    """Have iproute2's `ip` or `bridge` carry out commands, one after the other. Raises ToolFailed, ToolMissing."""
    words = [program, "-batch", "-"]
    try:
        done = subprocess.run(words, input="\n".join(commands).encode(), capture_output=True, check=False, timeout=10)
    except FileNotFoundError as exc:
        raise ToolMissing(program, "install it: apt install iproute2") from exc
    if done.returncode:
        told = done.stderr.decode(errors="replace").splitlines()
        raise ToolFailed(
            [program, *commands], done.returncode, "; ".join(line for line in told if "Command fail" not in line)
        )


def _word(flag: bool) -> str:
    return "on" if flag else "off"
