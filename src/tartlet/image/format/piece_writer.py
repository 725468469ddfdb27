"""A layer back into its region of a disk: decoded, verified and written while it arrives, holes kept."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
from functools import cache

from tartlet.errors import UserError
from tartlet.host.files import write_at
from tartlet.host.trouble import trouble_writing
from tartlet.image.format.layout import Piece
from tartlet.image.format.lz4_stream import BLOCK, ZERO_BLOCK, BadStream, Decoder

_BATCH = 1024 * 1024
"""Bytes that are collected before they are hashed and written: each such call gives Python's lock away and then waits
for it, longer than it takes to copy the bytes together."""

_BLOCKS_A_BATCH = 512
"""Blocks that are collected at most: they may be tiny."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_WRITE = 2
"""`SYNC_FILE_RANGE_WRITE`."""

_CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


class CorruptBlob(UserError):
    """What a registry sent, or what was stored, is not what its digest says."""

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(
            f"blob {digest} is damaged: {reason}", "try again; if it stays so, the image has to be pushed anew"
        )
        self.digest = digest


class PieceWriter:
    """Writes one piece of a disk from the bytes of its blob. Blocking: feed it in a worker thread.

    The region has to read as zeros before, because zeros are not written: a new sparse file does, and `clear` makes
    any other do so. `received` is where a broken transfer goes on. Memory: about three MiB.
    """

    def __init__(self, piece: Piece, descriptor: int, path: str | os.PathLike[str]) -> None:
        self._piece, self._descriptor, self._path = piece, descriptor, path
        self._decoder = Decoder()
        self._coded, self._plain = hashlib.sha256(), hashlib.sha256()
        self._blocks: list[bytes | memoryview] = []
        self._batched = 0
        self._at = 0
        self.received = 0
        """Bytes of the blob that were fed."""

        self.written = 0
        """Bytes that went to the disk; the rest of the region are zeros."""

    def clear(self) -> None:
        """Make the whole region read as zeros and take no room. Raises FileTrouble."""
        try:
            punch_hole(self._descriptor, self._piece.offset, self._piece.size)
        except OSError as exc:
            raise trouble_writing(self._path, exc) from exc

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the blob, and keep none of them. Raises CorruptBlob, FileTrouble."""
        self.received += len(data)
        if self.received > self._piece.blob.size:
            raise self._corrupt(f"it has more than {self._piece.blob.size} bytes")
        self._coded.update(data)
        try:
            for block in self._decoder.feed(data):
                self._take(block)
        except BadStream as exc:
            raise self._corrupt(str(exc)) from exc
        except OSError as exc:
            raise trouble_writing(self._path, exc) from exc

    def finish(self) -> None:
        """The blob has ended: write what is left and compare all sizes and digests. Raises CorruptBlob, FileTrouble."""
        if self.received != self._piece.blob.size:
            raise self._corrupt(f"it has {self.received} bytes instead of {self._piece.blob.size}")
        digest = f"sha256:{self._coded.hexdigest()}"
        if digest != self._piece.blob.digest:
            raise self._corrupt(f"its bytes have the digest {digest}")
        try:
            self._decoder.close()
            self._flush()
        except BadStream as exc:
            raise self._corrupt(str(exc)) from exc
        except OSError as exc:
            raise trouble_writing(self._path, exc) from exc
        if self._at != self._piece.size:
            raise self._corrupt(f"it holds {self._at} bytes of the disk instead of {self._piece.size}")
        content = f"sha256:{self._plain.hexdigest()}"
        if content != self._piece.content_digest:
            raise self._corrupt(f"its content has the digest {content} instead of {self._piece.content_digest}")
        start_writing_back(self._descriptor, self._piece.offset, self._piece.size)

    def _take(self, block: bytes) -> None:
        if self._at + self._batched + len(block) > self._piece.size:
            raise self._corrupt(f"it holds more than {self._piece.size} bytes of the disk")
        if len(block) <= BLOCK:
            self._place(block, is_zero=block is ZERO_BLOCK or ZERO_BLOCK.startswith(block))
            return
        view = memoryview(block)
        for start in range(0, len(block), BLOCK):
            part = view[start : start + BLOCK]
            self._place(part, is_zero=block.startswith(ZERO_BLOCK[: len(part)], start))

    def _place(self, block: bytes | memoryview, *, is_zero: bool) -> None:
        if is_zero:
            self._flush()
            self._plain.update(block)
            self._at += len(block)
            return
        self._blocks.append(block)
        self._batched += len(block)
        if self._batched >= _BATCH or len(self._blocks) == _BLOCKS_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._blocks:
            return
        data = b"".join(self._blocks)
        self._plain.update(data)
        write_at(self._descriptor, data, self._piece.offset + self._at)
        self._at += len(data)
        self.written += self._batched
        self._blocks, self._batched = [], 0

    def _corrupt(self, reason: str) -> CorruptBlob:
        return CorruptBlob(self._piece.blob.digest, reason)


def punch_hole(descriptor: int, offset: int, size: int) -> None:
    """Make a range of a file read as zeros, giving its room back where the file system can. Raises OSError.

    The file keeps its length, and the range must lie within it.
    """
    if not size or (sys.platform == "linux" and _punched(descriptor, offset, size)):
        return
    for at in range(offset, offset + size, BLOCK):
        write_at(descriptor, ZERO_BLOCK[: offset + size - at], at)


def start_writing_back(descriptor: int, offset: int, size: int) -> None:
    """Let the medium take this range now, beside the work that follows, so that the sync at the end has less to do.

    Only a hint (sync_file_range(2)): what goes wrong shows at the sync.
    """
    if sys.platform == "linux" and size:
        _libc().sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), _WRITE)


def _punched(descriptor: int, offset: int, size: int) -> bool:
    number = _libc().fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(size))
    if number == 0:
        return True
    failure = ctypes.get_errno()
    if failure in _CANNOT_PUNCH:
        return False
    raise OSError(failure, os.strerror(failure))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
