"""The device node of a macvtap: found where the kernel makes nodes by itself, else made for a moment."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from pathlib import Path

_DEVICES = Path("/dev")
_KERNEL_OBJECTS, _KERNEL_EVENTS = 15, 1
"""NETLINK_KOBJECT_UEVENT (linux/netlink.h) and its group of messages by the kernel itself."""

_LONGEST = 1 << 16


class NodeMissing(OSError):
    """The kernel has not announced the device."""


def announcements() -> socket.socket:
    """Where the kernel announces devices that appear in this thread's network namespace from now on (udev(7))."""
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _KERNEL_OBJECTS)
    listener.bind((0, _KERNEL_EVENTS))
    listener.setblocking(False)
    return listener


def opened(number: int, announced: socket.socket) -> int:
    """A descriptor of the macvtap whose interface has this number and which was `announced`. Raises OSError."""
    device = _device(f"tap{number}", announced)
    node = _DEVICES / f"tap{number}"
    if _is(node, device):
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)
    # A container, whose /dev is nobody's but its own.
    made = _DEVICES / f"tartlet-{secrets.token_hex(8)}"
    os.mknod(made, stat.S_IFCHR | 0o600, device)
    try:
        return os.open(made, os.O_RDWR | os.O_CLOEXEC)
    finally:
        made.unlink()


def _device(name: str, announced: socket.socket) -> int:
    """The device number that was announced for a name in /dev."""
    try:
        while True:
            words = dict(word.split("=", 1) for word in announced.recv(_LONGEST).decode().split("\0") if "=" in word)
            if words.get("DEVNAME") == name:
                return os.makedev(int(words["MAJOR"]), int(words["MINOR"]))
    except BlockingIOError as exc:
        raise NodeMissing(f"the kernel made no device {name}") from exc


def _is(node: Path, device: int) -> bool:
    try:
        return node.stat().st_rdev == device
    except FileNotFoundError:
        return False
