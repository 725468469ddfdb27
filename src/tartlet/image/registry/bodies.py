"""The bytes of requests and answers, in parts that are worth a worker thread's while."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import aiohttp
from anyio import to_thread

from tartlet.image.registry.addresses import shown
from tartlet.image.registry.errors import BadAnswer
from tartlet.image.registry.transport import Body

BlobBytes = Callable[[int, int], AsyncIterator[bytes | memoryview]]
"""Gives the bytes of a blob from one offset up to another; asked again for each attempt."""

_PART = 1024 * 1024
_READ = 4 * _PART
"""Bytes of a file for each visit to a worker thread, which on a busy machine waits for its turn."""


def one_part(data: bytes) -> Body:
    """Bytes at hand as the body of a request."""

    async def parts() -> AsyncGenerator[bytes]:
        view = memoryview(data)
        for at in range(0, len(data), _PART):
            yield bytes(view[at : at + _PART])

    return parts


def from_bytes(data: bytes) -> BlobBytes:
    """A blob at hand."""

    async def parts(start: int, end: int) -> AsyncGenerator[bytes]:
        for at in range(start, end, _PART):
            yield data[at : min(at + _PART, end)]

    return parts


def from_file(descriptor: int, offset: int = 0) -> BlobBytes:
    """A blob in an open file, from `offset` on; the file stays open and untouched as long as it is in use."""

    async def parts(start: int, end: int) -> AsyncGenerator[bytes]:
        at = start
        while at < end:
            read = await to_thread.run_sync(os.pread, descriptor, min(_READ, end - at), offset + at)
            if not read:
                raise BadAnswer("a file became shorter while it was sent")
            for first in range(0, len(read), _PART):
                yield read[first : first + _PART]
            at += len(read)

    return parts


async def whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, unless it has more than `most` bytes. Raises BadAnswer."""
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > most:
            raise BadAnswer(f"{shown(response.url)} sends more than {most} bytes")
    return bytes(data)
