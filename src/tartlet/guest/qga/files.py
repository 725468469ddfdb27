"""Files of a guest through the QEMU guest agent's `guest-file-*` commands, piece by piece, as root."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import anyio

from tartlet.errors import UserError
from tartlet.guest.errors import AgentCannot, AgentFailed
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.messages import FilePiece, FileWritten, Nothing

log = logging.getLogger(__name__)

PIECE = 512 << 10
"""Bytes of one request; each waits for the one before."""

_CLOSING_TIME = 10.0


class OpenFile:
    """A file that the agent holds open."""

    def __init__(self, agent: QemuGuestAgent, handle: int) -> None:
        self._agent, self._handle = agent, handle

    async def read(self) -> bytes:
        """The next piece; nothing at the end, which may move on. Raises AgentUnavailable, AgentFailed."""
        asked: dict[str, object] = {"handle": self._handle, "count": PIECE}
        return (await self._agent.ask("guest-file-read", asked, FilePiece)).data

    async def write(self, data: bytes) -> None:
        """All of it. Raises AgentUnavailable, AgentFailed."""
        rest = memoryview(data)
        while rest:
            told: dict[str, object] = {"handle": self._handle, "buf-b64": base64.b64encode(rest[:PIECE]).decode()}
            rest = rest[(await self._agent.ask("guest-file-write", told, FileWritten)).count :]

    async def close(self) -> None:
        """Raises AgentUnavailable, AgentFailed: what was written may not be there."""
        await self._agent.ask("guest-file-close", {"handle": self._handle}, Nothing)


@asynccontextmanager
async def opened(agent: QemuGuestAgent, path: str, mode: Literal["r", "w"]) -> AsyncGenerator[OpenFile]:
    """A file of the guest for the length of the block. Raises AgentUnavailable, AgentCannot, AgentFailed."""
    file = OpenFile(agent, await _handle(agent, path, mode))
    try:
        yield file
    except BaseException:
        try:
            with anyio.move_on_after(_CLOSING_TIME, shield=True):
                await file.close()
        except UserError as exc:
            log.debug("the guest's agent may keep %s open: %s", path, exc)
        raise
    await file.close()


async def _handle(agent: QemuGuestAgent, path: str, mode: str) -> int:
    try:
        return await agent.ask("guest-file-open", {"path": path, "mode": mode}, int)
    except AgentFailed as exc:
        info = await agent.info()
        if info.enabled("guest-file-open"):
            raise
        raise AgentCannot(
            f"the QEMU guest agent {info.version} of this VM may not open files",
            "its configuration in the guest forbids guest-file-open: on Fedora and RHEL see /etc/sysconfig/qemu-ga",
        ) from exc
