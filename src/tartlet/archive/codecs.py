"""The codings of blocks. Decoding never makes more than it is asked for, whatever the data says."""

from __future__ import annotations

import ctypes
import lzma
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import lzfse

from tartlet.archive.errors import BadArchive

_MOST_MEMORY = 256 * 1024 * 1024
"""Bytes that an LZMA stream may ask for as its dictionary."""

Decode = Callable[[bytes, int], bytes]
"""Turns a payload into at most as many bytes as are asked for; what is wrong raises BadArchive, or comes out short."""


def encoded(block: bytes) -> bytes:
    """`block` as an LZFSE stream."""
    coded: bytes = lzfse.compress(block)
    return coded


def decoder(letter: int) -> Decode:
    """The coding that the fourth letter of a container names. Raises BadArchive."""
    known: dict[int, Decode] = {ord("e"): _lzfse, ord("x"): _lzma, ord("z"): _zlib}
    if letter not in known:
        raise BadArchive(
            f"its compression {chr(letter)!r} is not known here", "on a Mac, archive it anew with `aa archive -a lzfse`"
        )
    return known[letter]


def _lzfse(payload: bytes, size: int) -> bytes:
    target = bytearray(size + 1)  # one more, in which too long a stream would show
    room = (ctypes.c_char * len(target)).from_buffer(target)
    made = _decode_buffer()(room, len(target), payload, len(payload), None)
    del room
    return bytes(memoryview(target)[: min(made, size)]) if made <= size else b""


@cache
def _decode_buffer() -> Callable[[Any, int, bytes, int, None], int]:
    """The decoder inside the `lzfse` package: its own `decompress` makes as much as the data says."""
    function = ctypes.CDLL(lzfse.__file__).lzfse_decode_buffer
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    function.restype = ctypes.c_size_t
    return function


def _lzma(payload: bytes, size: int) -> bytes:
    try:
        decompressor = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)
        return decompressor.decompress(payload, max_length=size)
    except (lzma.LZMAError, MemoryError) as exc:
        raise BadArchive(f"a block is damaged: {exc}") from exc


def _zlib(payload: bytes, size: int) -> bytes:
    """RFC 1950, or the bare RFC 1951 that Apple's library calls zlib."""
    try:
        return zlib.decompressobj().decompress(payload, size)
    except zlib.error:
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(payload, size)
        except zlib.error as exc:
            raise BadArchive(f"a block is damaged: {exc}") from exc
