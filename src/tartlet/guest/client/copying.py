"""`tart cp`: files and trees between this host and a guest, as a tar stream through a command of the guest."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tartlet.errors import UserError
from tartlet.guest.client.files import carried_out, read_tree, write_tree
from tartlet.guest.client.path_errors import GuestPathTrouble
from tartlet.guest.commands import Command
from tartlet.guest.errors import escaped
from tartlet.guest.rpc.channel import GuestChannel
from tartlet.host.pipes import drained, joined, pouring, raise_first
from tartlet.host.tar_stream import pack, unpack

_LOOK = """\
command -v tar > /dev/null || { echo 'the guest has no tar' >&2; exit 3; }
if [ -d "$1" ]; then echo folder; elif [ -e "$1" ] || [ -L "$1" ]; then echo file
elif [ -d "$2" ]; then echo nothing; else echo nowhere; fi
"""
"""What a path in the guest is, or whether it could be made."""


class CopyFailed(UserError):
    """A file or folder could not be copied."""


async def copy_into(channel: GuestChannel, source: Path, target: str, *, user: str = "") -> None:
    """Copy a file or a whole folder of this host into a guest, like `cp -R`: into `target` where that is a folder.

    A relative `target` is told from the user's home; `user` as in `Command`. What is there is overwritten. Modes and
    times are kept, owners become the user. Raises CopyFailed, FileTrouble, AgentUnavailable, AgentCannot, AgentFailed.
    """
    folder, name = _place_inside(source, target, await _looked_at(channel, target, user))
    reading, writing = os.pipe()

    def fill() -> None:
        try:
            pack(source, name, writing)
        except BrokenPipeError:
            return  # the guest's tar has ended, and tells why
        finally:
            os.close(writing)

    async def work() -> None:
        with _told_as_copying():
            await write_tree(channel, folder, drained(reading), user=user)

    told, ran = await joined(work, fill, reading)
    raise_first(told, ran)


async def copy_from(channel: GuestChannel, source: str, target: Path, *, user: str = "") -> None:
    """Copy a file or a whole folder of a guest to this host, like `cp -R`: into `target` where that is a folder.

    A relative `source` is told from the user's home; `user` as in `Command`. What is there is overwritten. Modes and
    times are kept, owners become the caller. Raises CopyFailed, BadStream, FileTrouble, AgentUnavailable, AgentCannot,
    AgentFailed.
    """
    kind = await _looked_at(channel, source, user)
    if kind not in ("file", "folder"):
        hint = "look with: tart exec NAME ls; what is not below / is told from the user's home"
        raise CopyFailed(f'there is no "{escaped(source)}" in the guest', hint)
    folder, name = _split(source)
    into, as_name = _place_here(name, target)
    reading, writing = os.pipe()

    def take() -> None:
        try:
            unpack(reading, into, as_name)
        finally:
            os.close(reading)

    async def work() -> None:
        with _told_as_copying():
            await read_tree(channel, folder, name, pouring(writing), user=user)

    told, ran = await joined(work, take, writing)
    raise_first(ran if isinstance(ran, UserError) else None, told, ran)


def _place_inside(source: Path, target: str, kind: str) -> tuple[str, str]:
    """The guest's folder to copy `source` into, and the name there."""
    if not os.path.lexists(source):
        raise CopyFailed(f'there is no "{source}" on this host', "check its name; the guest's paths are NAME:PATH")
    if kind == "folder":
        return target or ".", "." if source.name in ("", "..") else source.name
    folder, name = _split(target)
    if source.is_dir() and kind == "file":
        raise CopyFailed(f"{target} in the guest is a file, and {source} is a folder", "name a folder")
    if kind == "nowhere" or (target.endswith("/") and not source.is_dir()):
        missing = target if kind == "nothing" else folder
        raise CopyFailed(f"there is no folder {missing} in the guest", "make it first: tart exec NAME mkdir -p …")
    return folder, name


def _place_here(name: str, target: Path) -> tuple[Path, str]:
    """The host's folder to copy the guest's `name` into, and the name there."""
    if target.is_dir():
        return target, name
    if target.parent.is_dir():
        return target.parent, target.name
    raise CopyFailed(f"there is no folder {target.parent} on this host", "make it first")


async def _looked_at(channel: GuestChannel, path: str, user: str) -> str:
    folder, _ = _split(path)
    command = Command(name="sh", args=("-c", _LOOK, "sh", path or ".", folder), user=user)
    said = bytearray()

    async def keep(data: bytes) -> None:
        said.extend(data[:100])

    with _told_as_copying():
        await carried_out(channel, path, command, stdout=keep)
    return said.decode(errors="replace").strip()


@contextmanager
def _told_as_copying() -> Generator[None]:
    try:
        yield
    except GuestPathTrouble as exc:
        raise CopyFailed(f"copying failed: {exc}", exc.hint) from exc


def _split(path: str) -> tuple[str, str]:
    """The folder that a path is in, and its name there."""
    plain = path.rstrip("/") or ("/" if path else ".")
    folder, name = posixpath.split(plain)
    if name in ("", ".", ".."):
        return plain, "."
    return folder or ".", name
