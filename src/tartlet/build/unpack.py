"""Compressed images: recognised by their first bytes, unpacked into sparse files."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import anyio

from tartlet.build.progress import Progress, Report, silent
from tartlet.errors import FileTrouble, ToolMissing, UserError
from tartlet.host.process import started
from tartlet.host.trouble import trouble_writing

_MARKS = {b"\x1f\x8b": "gz", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}

_PIECE = 4 * 1024 * 1024
_BLOCK = 64 * 1024
"""Bytes that become a hole when all of them are zero."""
_ZEROS = bytes(_BLOCK)


class UnpackFailed(UserError):
    """A compressed file that is damaged or was cut short."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"cannot unpack {path}: {why}", "it was damaged or cut short on its way; download it again")


def compression(path: Path) -> str | None:
    """`gz`, `xz` or `zst` by the file's first bytes, whatever its name. Raises FileTrouble."""
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)


async def unpack(source: Path, target: Path, report: Report = silent) -> None:
    """Write the content of the compressed file `source` as the new, sparse file `target`.

    Ended early, no target is left. Raises UnpackFailed, NoSpace, FileTrouble, ToolMissing.
    """
    kind = compression(source)
    if kind is None:
        raise UnpackFailed(source, "it is not compressed with gzip, xz or zstd")
    try:
        with source.open("rb") as packed:
            unpacked = _unzst(packed, source) if kind == "zst" else _by_library(packed, source, kind)
            async with aclosing(unpacked) as pieces:
                await _write(pieces, target, _Follow(packed, source.name, report))
    except OSError as exc:
        raise FileTrouble("cannot read", source, exc) from exc


class _Follow:
    """Reports how much of the packed file has been read; how much comes out of it nobody knows."""

    def __init__(self, packed: IO[bytes], name: str, report: Report) -> None:
        self._packed, self._report = packed.fileno(), report
        self._stage, self._total = f"unpacking {name}", os.fstat(packed.fileno()).st_size

    def __call__(self) -> None:
        done = os.lseek(self._packed, 0, os.SEEK_CUR)
        self._report(Progress(self._stage, min(done, self._total), self._total))


async def _by_library(packed: IO[bytes], source: Path, kind: str) -> AsyncGenerator[bytes]:
    with gzip.GzipFile(fileobj=packed) if kind == "gz" else lzma.open(packed) as stream:
        while True:
            try:
                piece = await anyio.to_thread.run_sync(stream.read, _PIECE)
            except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as exc:
                raise UnpackFailed(source, str(exc)) from exc
            if not piece:
                return
            yield piece


async def _unzst(packed: IO[bytes], source: Path) -> AsyncGenerator[bytes]:
    with TemporaryFile() as stderr:
        async with _zstd(packed, stderr) as process:
            assert process.stdout
            with suppress(anyio.EndOfStream):
                while True:
                    yield await process.stdout.receive(_PIECE)
            await process.wait()
        if process.returncode:
            stderr.seek(0)
            told = stderr.read().decode(errors="replace").strip()
            raise UnpackFailed(source, told.rpartition(":")[2].strip() or "zstd failed")


@asynccontextmanager
async def _zstd(packed: IO[bytes], stderr: IO[bytes]) -> AsyncGenerator[anyio.abc.Process]:
    try:
        process = await started(
            ["zstd", "--decompress", "--stdout", "--quiet", "--long=31"],
            stdin=packed,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    except FileNotFoundError as exc:
        raise ToolMissing("zstd") from exc
    async with process:
        yield process


async def _write(pieces: AsyncIterator[bytes], target: Path, follow: _Follow) -> None:
    try:
        file = target.open("xb", buffering=0)
    except OSError as exc:
        raise trouble_writing(target, exc) from exc
    try:
        with file:
            async for piece in pieces:
                await anyio.to_thread.run_sync(_write_sparse, file.fileno(), piece, target)
                follow()
            await anyio.to_thread.run_sync(_finish, file.fileno(), target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(target)
        raise


def _write_sparse(descriptor: int, piece: bytes, target: Path) -> None:
    """Append the piece, leaving out what is zero."""
    whole = memoryview(piece)
    try:
        for at in range(0, len(whole), _BLOCK):
            block = whole[at : at + _BLOCK]
            if piece[at : at + _BLOCK] == _ZEROS[: len(block)]:
                os.lseek(descriptor, len(block), os.SEEK_CUR)
                continue
            while block:
                block = block[os.write(descriptor, block) :]
    except OSError as exc:
        raise trouble_writing(target, exc) from exc


def _finish(descriptor: int, target: Path) -> None:
    try:
        os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
        os.fsync(descriptor)
    except OSError as exc:
        raise trouble_writing(target, exc) from exc
