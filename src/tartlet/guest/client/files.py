"""Files of a running guest: read, write and look at them through whatever agent answers.

Paths without a / at their begin are told from the user's home. `user` is as in `Command`: the rights are those of that
user. What fails raises GuestPathTrouble, with a class of its own for what is missing, is a folder, or is forbidden; a
guest that does not answer raises AgentUnavailable, AgentFailed.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import replace

import anyio

from tartlet.errors import UserError
from tartlet.guest.client.path_errors import GuestPathTrouble, trouble
from tartlet.guest.commands import Command
from tartlet.guest.rpc.channel import GuestChannel, Writer

DEFAULT_LIMIT = 64 << 20
"""Bytes that `read_file` takes into memory unless told otherwise."""

_LONGEST_COMPLAINT = 2000
_CLEAN_UP = 10.0
"""Seconds for the clean-up behind a writer who gave up."""

_PLACE = """\
path=$1
if [ -L "$path" ]; then path=$(readlink -f -- "$path"; echo /); path=${path%??}; fi
new=${path%"${path##*/}"}.tart-$2
"""
"""The file that is meant, behind links, and the name of the new one beside it."""

_WRITE = f"""\
{_PLACE}if [ -d "$path" ]; then echo "$path: Is a directory" >&2; exit 1; fi
umask 077
if cat > "$new" && {{ [ -z "$4" ] || [ "$(wc -c < "$new")" -eq "$4" ]; }} && chmod "$3" "$new" &&
  {{ sync "$new" || sync; }} && mv -f -- "$new" "$path"; then exit 0; fi
rm -f -- "$new"
exit 1
"""


class TooLarge(GuestPathTrouble):
    """A file holds more than the caller takes."""

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(path, f"it holds more than {limit} bytes", None, "read it as a stream, or raise the limit")
        self.limit = limit


async def read_file(channel: GuestChannel, path: str, *, limit: int = DEFAULT_LIMIT, user: str = "") -> bytes:
    """The content of a file, at most `limit` bytes. Raises TooLarge, GuestPathTrouble."""
    content = bytearray()

    async def keep(data: bytes) -> None:
        content.extend(data)

    # One byte more than the caller takes tells that there is more.
    await carried_out(channel, path, program("head", "-c", str(limit + 1), "--", plain(path), user=user), stdout=keep)
    if len(content) > limit:
        raise TooLarge(path, limit)
    return bytes(content)


async def read_stream(channel: GuestChannel, path: str, into: Writer, *, user: str = "") -> None:
    """Hand the content of a file to `into`, in pieces, as it comes. Raises GuestPathTrouble, and what `into` raises."""
    await carried_out(channel, path, program("cat", "--", plain(path), user=user), stdout=into)


async def write_file(channel: GuestChannel, path: str, data: bytes, *, mode: int = 0o644, user: str = "") -> None:
    """Make or replace a file, whole or not at all, and on the guest's disk. Raises GuestPathTrouble."""

    async def pieces() -> AsyncGenerator[bytes]:
        if data:
            yield data

    await write_stream(channel, path, pieces(), mode=mode, user=user, size=len(data))


async def write_stream(
    channel: GuestChannel,
    path: str,
    pieces: AsyncIterable[bytes],
    *,
    mode: int = 0o644,
    user: str = "",
    size: int | None = None,
) -> None:
    """The same with content that comes in pieces; `size`, where it is known, is checked in the guest.

    A symbolic link is followed. Raises GuestPathTrouble, and what `pieces` raises: then the old file stays.
    """
    token = secrets.token_hex(8)
    words = ("sh", plain(path), token, f"{mode & 0o7777:o}", "" if size is None else str(size))
    try:
        await carried_out(channel, path, program("sh", "-c", _WRITE, *words, user=user), stdin=pieces)
    except BaseException as exc:
        if not isinstance(exc, GuestPathTrouble):  # killed in the guest before it could clean up
            with anyio.move_on_after(_CLEAN_UP, shield=True):
                await _forget(channel, path, token, user)
        raise


async def _forget(channel: GuestChannel, path: str, token: str, user: str) -> None:
    command = program("sh", "-c", f'{_PLACE}rm -f -- "$new"', "sh", plain(path), token, user=user)
    try:
        await carried_out(channel, path, command)
    except UserError:  # the guest has gone; the first error tells it
        return


async def read_tree(channel: GuestChannel, folder: str, name: str, into: Writer, *, user: str = "") -> None:
    """Hand what is called `name` in `folder`, and all in it, to `into` as a tar stream. Raises GuestPathTrouble."""
    command = program("tar", "-cf", "-", "-C", folder, "--", name, user=user)
    await carried_out(channel, folder, command, stdout=into, about_one=False)


async def write_tree(channel: GuestChannel, folder: str, pieces: AsyncIterable[bytes], *, user: str = "") -> None:
    """Unpack a tar stream into a folder that is there; what it makes belongs to the user. Raises GuestPathTrouble."""
    command = program("tar", "-xof", "-", "-C", folder, user=user)
    await carried_out(channel, folder, command, stdin=pieces, about_one=False)


def plain(path: str) -> str:
    """A path that no program takes for an option or for its standard input."""
    return path if path.startswith("/") else f"./{path}"


def program(name: str, *args: str, user: str) -> Command:
    """A command whose words are to be understood here, whatever the guest's language and time zone."""
    return Command(name=name, args=args, env={"LC_ALL": "C", "TZ": "UTC"}, user=user, bulky=True)


async def carried_out(
    channel: GuestChannel,
    path: str,
    command: Command,
    *,
    stdout: Writer | None = None,
    stdin: AsyncIterable[bytes] | None = None,
    about_one: bool = True,
) -> None:
    """Run a command that has to succeed. Raises GuestPathTrouble with what it complains of about `path`."""
    complaint = bytearray()

    async def complain(data: bytes) -> None:
        if len(complaint) < _LONGEST_COMPLAINT:
            complaint.extend(data)

    asked = replace(command, interactive=stdin is not None)
    code = await channel.execute(asked, stdout or complain, complain, stdin)
    if code != 0:
        said = complaint.decode(errors="replace") or f"{command.name} ended with {code}"
        raise trouble(path, said, about_one=about_one)
