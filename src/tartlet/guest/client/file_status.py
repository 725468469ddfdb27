"""What a guest's file system tells of its files: `stat` and the content of folders."""

from __future__ import annotations

import calendar
import os
import secrets
import stat
import time
from dataclasses import dataclass

from tartlet.guest.client.files import carried_out, plain, program
from tartlet.guest.client.path_errors import GuestPathMissing, GuestPathTrouble
from tartlet.guest.rpc.channel import GuestChannel

_FORMAT = "%f %s %u %g %y/%n"
"""Mode in hexadecimal, size, owner, group, time of the last change of content, name; stat of coreutils and busybox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestFile:
    """A file, folder or whatever else has a name in a guest. A value, true when it was asked for."""

    name: str
    """Without its folder. Bytes that are no UTF-8 are surrogates, as in `os.fsdecode`."""
    mode: int
    """Kind and permissions, as in `os.stat`."""
    size: int
    """Bytes."""
    uid: int
    gid: int
    mtime_ns: int
    """Unix time of the last change of content, in nanoseconds; whole seconds where the guest's stat tells no more."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


async def stat_path(channel: GuestChannel, path: str, *, follow_links: bool = True, user: str = "") -> GuestFile:
    """What is at a path. Raises GuestPathTrouble."""
    follow = ("-L",) if follow_links else ()
    words = ("stat", *follow, "-c", _FORMAT, "--", plain(path))
    told = bytearray()

    async def keep(data: bytes) -> None:
        told.extend(data)

    await carried_out(channel, path, program(*words, user=user), stdout=keep)
    return _parsed(path, bytes(told).removesuffix(b"\n"))


async def list_folder(channel: GuestChannel, path: str, *, user: str = "") -> list[GuestFile]:
    """What is in a folder, by name; links are not followed. What vanishes meanwhile is left out.

    Raises GuestPathTrouble.
    """
    mark = secrets.token_hex(8)  # a name may hold line breaks
    words = ["find", f"{plain(path)}/.", "-mindepth", "1", "-maxdepth", "1"]
    words += ["-exec", "stat", "-c", f"{mark} {_FORMAT}", "--", "{}", "+"]
    told = bytearray()

    async def keep(data: bytes) -> None:
        told.extend(data)

    try:
        await carried_out(channel, path, program(*words, user=user), stdout=keep)
    except GuestPathMissing:
        await stat_path(channel, path, user=user)
        if not told:
            raise
    records = bytes(told).removesuffix(b"\n").split(f"{mark} ".encode())[1:]
    return sorted((_parsed(path, record.removesuffix(b"\n")) for record in records), key=lambda found: found.name)


def _parsed(path: str, told: bytes) -> GuestFile:
    """From a line in _FORMAT. Raises GuestPathTrouble."""
    facts, _, name = told.partition(b"/")
    try:
        mode, size, uid, gid, when = facts.decode("ascii").split(" ", 4)
        return GuestFile(
            name=os.fsdecode(name.rstrip(b"/").rsplit(b"/", 1)[-1]),
            mode=int(mode, 16),
            size=int(size),
            uid=int(uid),
            gid=int(gid),
            mtime_ns=_nanoseconds(when),
        )
    except ValueError as exc:
        raise GuestPathTrouble(path, "the guest's stat says what cannot be read") from exc


def _nanoseconds(told: str) -> int:
    """From `2026-11-26 00:37:36.123456789 +0000`, where the fraction may be missing."""
    moment, _, fraction = told.removesuffix(" +0000").partition(".")
    return calendar.timegm(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)
