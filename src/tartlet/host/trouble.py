"""What keeps a file from being written, as the user is told of it."""

from __future__ import annotations

import errno
import os

from tartlet.errors import FileTrouble

_HINTS = {
    errno.EROFS: "that file system is mounted read-only: choose another place, or mount it for writing "
    "(after an error the kernel does that too: see `dmesg`)",
    errno.EACCES: "`ls -ld` of it and of its folder tells who may; what `sudo tart` has made, chown gives back to you",
    errno.EPERM: "`ls -ld` of it and of its folder tells whose it is, `lsattr -d` whether it may be changed at all",
    errno.EFBIG: "a limit (`ulimit -f`) or the file system forbids files of that size: choose a place on another one "
    "(ext4, XFS and btrfs take them, FAT does not)",
    errno.EDQUOT: "your share of that file system is used up: `quota` tells how much; `tart prune` removes old images",
    errno.ENOSPC: "free some space; `tart prune` removes old images",
}


class NoSpace(FileTrouble):
    """The file system, or the user's share of it, is full."""


def what_to_do(cause: OSError) -> str | None:
    """The hint for whoever could not write because of `cause`, where there is one."""
    return _HINTS.get(cause.errno or 0)


def trouble_writing(target: str | os.PathLike[str], cause: OSError) -> FileTrouble:
    """What to raise when `cause` kept us from writing `target`: NoSpace or plain FileTrouble."""
    hint = what_to_do(cause)
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("no room to write", os.fspath(target), cause, hint)
    return FileTrouble("cannot write", os.fspath(target), cause, hint)
