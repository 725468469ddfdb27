"""What arrives from our own agent's port, taken apart. The format stands in `tart_agent.py`, which runs in the guest.

The guest is not believed: nothing is kept that is longer than one frame, and what breaks a rule ends the session.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

from tartlet.errors import UserError
from tartlet.guest.own_agent.tart_agent import (
    CREDIT,
    END,
    ERRORS,
    HEADER,
    HELLO,
    LARGEST,
    LOST,
    MAGIC,
    OUTPUT,
    PONG,
    TOKEN,
)

_FROM_A_GUEST = frozenset({HELLO, OUTPUT, ERRORS, CREDIT, END, PONG, LOST})


class Damaged(UserError):
    """The guest's agent sent something that makes no sense."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the guest."""

    kind: int
    channel: int
    payload: bytes

    @property
    def cost(self) -> int:
        """Bytes of a channel's window it takes."""
        return HEADER.size + len(self.payload)


def new_mark() -> bytes:
    """The mark of a new session. The guest repeats it, so that an answer to an older one is known as such."""
    return MAGIC + os.urandom(TOKEN)


def knock(mark: bytes) -> bytes:
    """What begins a session: enough zeros to fill up whatever frame the guest waits for the rest of, then the mark."""
    return bytes(HEADER.size + LARGEST) + mark


class Frames:
    """Takes bytes in, gives frames out."""

    def __init__(self) -> None:
        self._held = bytearray()

    def add(self, data: bytes) -> None:
        """Bytes that have arrived."""
        self._held += data

    def found(self, mark: bytes) -> bool:
        """Whether the mark has arrived; it and all before it are dropped, or what cannot be a part of it."""
        at = self._held.find(mark)
        if at < 0:
            del self._held[: max(0, len(self._held) - len(mark) + 1)]
            return False
        del self._held[: at + len(mark)]
        return True

    def next(self) -> Frame | None:
        """The next frame once it is whole. Raises Damaged."""
        held = self._held
        if len(held) < HEADER.size:
            return None
        kind, channel, length, check = HEADER.unpack_from(held)
        if kind not in _FROM_A_GUEST or length > LARGEST:
            raise Damaged("the guest's agent sent something that is no frame")
        whole = HEADER.size + length
        if len(held) < whole:
            return None
        payload = bytes(held[HEADER.size : whole])
        if check != zlib.crc32(payload, zlib.crc32(held[: HEADER.size - 4])):
            raise Damaged("the guest's agent sent a damaged frame")
        del held[:whole]
        return Frame(kind, channel, payload)
