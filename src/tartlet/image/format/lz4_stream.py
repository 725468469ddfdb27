"""The LZ4 streams of Apple's compression library: what every disk layer is.

Source: Apple's documentation of `COMPRESSION_LZ4`. A stream is a sequence of blocks and an end mark, all numbers
32-bit little-endian: `bv41`, decoded size, encoded size, a raw LZ4 block; or `bv4-`, size, the bytes as they are; and
`bv4$` at the end. A block may refer to up to 64 KiB that earlier blocks produced. It is not the `.lz4` frame format.

The LZ4 library works outside Python's global lock, so threads code several streams at the same time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import cache
from struct import Struct

import lz4.block

from tartlet.errors import UserError

BLOCK = 65_536
"""Bytes of plain data in a block that is written; also how far back a block may refer."""

ZERO_BLOCK = bytes(BLOCK)
"""What a decoder gives for a block of nothing but zeros: this very object, so that `is` recognises most of them."""

END = b"bv4$"

MAX_BLOCK = 128 * 1024 * 1024
"""Bytes that a block may have, encoded and decoded together. What is larger is damaged or hostile."""

_CODED, _STORED = b"bv41", b"bv4-"
_SIZES, _SIZE = Struct("<II"), Struct("<I")
_TINY = 128
"""Blocks below this are stored, as Apple's encoder does."""


class BadStream(UserError):
    """Compressed data that is damaged, cut short or no LZ4 stream."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"damaged disk layer: {reason} at byte {offset} of its compressed data")
        self.offset = offset


class Decoder:
    """Decodes one stream that comes in parts of any size.

    It holds the part of a block that is incomplete, the last 64 KiB of output, and nothing else.
    """

    __slots__ = ("_begun", "_history", "_memo", "_need", "_offset", "finished")

    def __init__(self) -> None:
        self.finished = False
        """The end mark was seen; what comes after it is ignored, as Apple's decoder does."""

        self._begun = bytearray()
        self._need = len(END)
        self._offset = 0
        self._history = b""
        self._memo = b""

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The blocks that `data` completes, decoded one by one as they are asked for.

        The caller takes all of them before it feeds more or changes `data`. Raises BadStream.
        """
        rest = memoryview(data)
        while self._begun and rest and not self.finished:
            missing = self._need - len(self._begun)
            self._begun += rest[:missing]
            rest = rest[missing:]
            if len(self._begun) >= self._need:
                at = yield from self._blocks(memoryview(bytes(self._begun)))
                del self._begun[:at]
        if rest and not self.finished:
            at = yield from self._blocks(rest)
            self._begun += rest[at:]

    def close(self) -> None:
        """Say that no data follows. Raises BadStream when the end mark has not come."""
        if not self.finished:
            raise BadStream("it is cut short", self._offset + len(self._begun))

    def _blocks(self, buffer: memoryview) -> Generator[bytes, None, int]:
        """Decode the complete blocks of `buffer`; returns where the incomplete one begins."""
        at, have = 0, len(buffer)
        while have - at >= len(END) and not self.finished:
            magic = bytes(buffer[at : at + len(END)])
            if magic == END:
                self.finished = True
                at += len(END)
                break
            header, decoded, encoded = self._header(magic, buffer, at)
            self._need = header + encoded
            if have - at < self._need:
                break
            payload = buffer[at + header : at + self._need]
            block = self._decoded(payload, decoded, at) if magic == _CODED else bytes(payload)
            at += self._need
            self._need = len(END)
            self._remember(block)
            yield block
        self._offset += at
        return at

    def _header(self, magic: bytes, buffer: memoryview, at: int) -> tuple[int, int, int]:
        """Lengths of a block's header, its decoded and its encoded data; of a header alone when it is incomplete."""
        if magic == _CODED:
            if len(buffer) - at < 12:
                return 12, 0, 0
            decoded, encoded = _SIZES.unpack_from(buffer, at + 4)
            header = 12
        elif magic == _STORED:
            if len(buffer) - at < 8:
                return 8, 0, 0
            (encoded,) = _SIZE.unpack_from(buffer, at + 4)
            decoded, header = encoded, 8
        else:
            raise BadStream(f"unknown block type {magic!r}", self._offset + at)
        if decoded + encoded > MAX_BLOCK:
            raise BadStream(f"a block of {decoded} bytes is too large", self._offset + at)
        return header, decoded, encoded

    def _decoded(self, payload: memoryview, size: int, at: int) -> bytes:
        # A block that gave zeros after zeros does so again: Apple's encoder refers back, which the library
        # decodes at a tenth of its speed, and a disk has thousands of these.
        if self._history is ZERO_BLOCK and size == BLOCK and bytes(payload) == self._memo:
            return ZERO_BLOCK
        if size == 0 and not payload:
            return b""
        try:
            block = lz4.block.decompress(payload, uncompressed_size=size, dict=self._history)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError) as exc:
            raise BadStream("a block cannot be decoded", self._offset + at) from exc
        if len(block) != size:
            raise BadStream(f"a block has {len(block)} bytes instead of {size}", self._offset + at)
        if block == ZERO_BLOCK:
            if self._history is ZERO_BLOCK:
                self._memo = bytes(payload)
            return ZERO_BLOCK
        return block

    def _remember(self, block: bytes) -> None:
        if len(block) == BLOCK:
            self._history = block
        elif len(block) > BLOCK:
            self._history = block[-BLOCK:]
        else:
            self._history = (self._history + block)[-BLOCK:]


def encode_blocks(data: bytes) -> list[bytes | memoryview]:
    """`data` as blocks in their stored form, without an end mark. What is no bytes object is part of `data` itself.

    Blocks stand alone (no references back), so the results of several calls may be joined as long as every call but
    the last has a multiple of 64 KiB.
    """
    blocks: list[bytes | memoryview] = []
    view = memoryview(data)
    compress, zero, pack = lz4.block.compress, encoded_zero_block(), _SIZES.pack
    for start in range(0, len(data), BLOCK):
        if data.startswith(ZERO_BLOCK, start):
            blocks.append(zero)
            continue
        plain = view[start : start + BLOCK]
        size = len(plain)
        payload = compress(plain, store_size=False) if size >= _TINY else b""
        if 0 < len(payload) < size:
            blocks += (_CODED + pack(size, len(payload)), payload)
        else:
            blocks += (_STORED + _SIZE.pack(size), plain)
    return blocks


@cache
def encoded_zero_block() -> bytes:
    """A block of 64 KiB of zeros as it is written."""
    payload = lz4.block.compress(ZERO_BLOCK, store_size=False)
    return _CODED + _SIZES.pack(BLOCK, len(payload)) + payload
