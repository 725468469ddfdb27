"""What a guest's programs say about a path, as errors that a caller can tell apart."""

from __future__ import annotations

import errno
import os

from tartlet.errors import UserError
from tartlet.guest.errors import escaped

_PHRASES = {
    "no such file or directory": errno.ENOENT,
    "no such file": errno.ENOENT,  # dash
    "directory nonexistent": errno.ENOENT,  # dash
    "nonexistent directory": errno.ENOENT,  # the shell of busybox
    "not a directory": errno.ENOTDIR,
    "is a directory": errno.EISDIR,
    "permission denied": errno.EACCES,
    "operation not permitted": errno.EPERM,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "file name too long": errno.ENAMETOOLONG,
    "too many levels of symbolic links": errno.ELOOP,
}
"""The ends of what programs say in the C locale, of glibc and musl alike."""


class GuestPathTrouble(UserError):
    """A path of a guest of which something was asked that cannot be."""

    def __init__(self, path: str, reason: str, number: int | None = None, hint: str | None = None) -> None:
        super().__init__(f"{escaped(path)} in the guest: {escaped(reason)}", hint)
        self.path = path
        self.errno = number
        """As the guest's system told it; None when that is not known."""


class GuestPathMissing(GuestPathTrouble):
    """There is no such file or folder."""


class GuestPathIsFolder(GuestPathTrouble):
    """A folder is where a file was expected."""


class GuestPathForbidden(GuestPathTrouble):
    """The user of the guest has no right to do that."""


_KINDS: dict[int, type[GuestPathTrouble]] = {
    errno.ENOENT: GuestPathMissing,
    errno.ENOTDIR: GuestPathMissing,
    errno.EISDIR: GuestPathIsFolder,
    errno.EACCES: GuestPathForbidden,
    errno.EPERM: GuestPathForbidden,
}


def trouble(path: str, complaint: str, *, about_one: bool = True) -> GuestPathTrouble:
    """The error for what a program, run with LC_ALL=C, complained of.

    Its own words are told when it had more than this one path to do with.
    """
    lines = complaint.strip().splitlines() or ["it failed without a reason"]
    for line in lines:
        for phrase, number in _PHRASES.items():
            if line.lower().rstrip().endswith(phrase):
                reason = os.strerror(number) if about_one else line
                return _KINDS.get(number, GuestPathTrouble)(path, reason, number, _hint(number))
    return GuestPathTrouble(path, lines[0])


def _hint(number: int) -> str | None:
    if number in (errno.EACCES, errno.EPERM):
        return "another user of the guest may be allowed to: user='root', or --user root"
    return None
