"""From `--dir` to folders that are being served."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from tartlet.errors import UserError
from tartlet.host.paths import Home
from tartlet.share.arguments import Group, Share, grouped, synced
from tartlet.share.serving import SharedFolders, serving


class NoSuchFolder(UserError):
    """A `--dir` that names no folder of this host."""

    def __init__(self, path: str) -> None:
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        super().__init__(f"--dir: {path} {what}", "make it first, or look for a typing error in its path and options")
        self.path = path


@asynccontextmanager
async def shared(home: Home, values: Sequence[str], announce: Callable[[str], None]) -> AsyncGenerator[SharedFolders]:
    """Serve the folders that `--dir` values name, for the length of the block.

    `announce` gets a line for each step that takes time. Raises BadShare, NoSuchFolder, ArchiveFailed, ToolMissing,
    ShareFailed.
    """
    async with AsyncExitStack() as held:
        for copy in synced(values):
            _folder(copy.path)
        groups: list[Group] = []
        for group in grouped(values):
            shares = [await _local(held, share, home, announce) for share in group.shares]
            groups.append(replace(group, shares=tuple(shares)))
        yield await held.enter_async_context(serving(groups, home.tmp))


async def _local(held: AsyncExitStack, share: Share, home: Home, announce: Callable[[str], None]) -> Share:
    """The share of a folder that is there. An archive is one as long as it is held."""
    if share.is_address:
        from tartlet.share.archive import unpacked

        return replace(share, path=str(await held.enter_async_context(unpacked(share.path, home, announce))))
    return replace(share, path=_folder(share.path))


def _folder(path: str) -> str:
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(path):
        raise NoSuchFolder(path)
    return path
