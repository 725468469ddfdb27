"""The qcow2 header: read without asking another program, and written for an empty image.

Source: QEMU's docs/interop/qcow2.txt. All numbers are big-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble, UserError
from tartlet.host.files import write_at
from tartlet.host.trouble import trouble_writing

MAGIC = b"QFI\xfb"

SECTOR = 512
CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
"""Bytes of a cluster in images made here: QEMU's default."""
_L2_SPAN = CLUSTER // 8 * CLUSTER
"""Bytes of guest disk that one L1 entry covers."""
MAX_SIZE = 32 * 1024 * 1024 // 8 * _L2_SPAN
"""QEMU opens no image whose L1 table is larger than 32 MiB."""

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
"""Magic, version, backing offset and length, cluster bits, size, encryption, L1 entries and offset, refcount table
offset and clusters, snapshots and their offset: 72 bytes, which is all of version 2."""
_MORE = struct.Struct(">QQQII")
"""Version 3 goes on: incompatible, compatible, autoclear features, refcount order, header length."""
_BACKING_FORMAT = 0xE2792ACA
_CORRUPT = 1 << 1
_DATA_FILE = 1 << 2


class DamagedDisk(UserError):
    """A disk file whose header cannot be true."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(
            f"the disk {os.fspath(path)} is damaged: {why}",
            f"`qemu-img check {os.fspath(path)}` tells more; a clone of the same VM may still be whole",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a qcow2 file says about itself."""

    size: int
    """Bytes the guest sees."""
    backing_name: str | None = None
    backing_format: str | None = None
    data_file: bool = False
    """The guest's data lies in yet another file, which the header names."""
    corrupt: bool = False
    """QEMU found the tables to be wrong and will not write to this image again."""


def parse(start: bytes, path: str | os.PathLike[str] = "") -> Header | None:
    """The header in `start` (at least the first 4 KiB of a file), None when it is no qcow2. Raises DamagedDisk."""
    if start[:4] != MAGIC:
        return None
    try:
        fields = _HEADER.unpack_from(start)
        version, offset, length, cluster_bits, size = fields[1:6]
        features, *_, header_length = _MORE.unpack_from(start, 72) if version == 3 else (0, 72)
    except struct.error as exc:
        raise DamagedDisk(path, "its header is cut short") from exc
    if version not in (2, 3) or not 9 <= cluster_bits <= 21 or not 72 <= header_length <= 4096:
        raise DamagedDisk(path, f"version {version}, cluster bits {cluster_bits}, header of {header_length} bytes")
    if size > 1 << 62 or size % SECTOR:
        raise DamagedDisk(path, f"its size of {size} bytes cannot be")
    name = _backing_name(start, offset, length, path) if offset else None
    extensions = dict(_extensions(start, header_length))
    return Header(
        size=size,
        backing_name=name,
        backing_format=_text(extensions[_BACKING_FORMAT], path) if _BACKING_FORMAT in extensions else None,
        data_file=bool(features & _DATA_FILE),
        corrupt=bool(features & _CORRUPT),
    )


def _backing_name(start: bytes, offset: int, length: int, path: str | os.PathLike[str]) -> str:
    if not 1 <= length <= 1023 or offset + length > len(start):
        raise DamagedDisk(path, f"the name of its base ({length} bytes at {offset}) lies outside its header")
    return _text(start[offset : offset + length], path)


def _extensions(start: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 8 <= len(start):
        kind, length = struct.unpack_from(">II", start, at)
        if kind == 0 or at + 8 + length > len(start):
            return
        yield kind, start[at + 8 : at + 8 + length]
        at += 8 + -(-length // 8) * 8


def _text(raw: bytes, path: str | os.PathLike[str]) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise DamagedDisk(path, "a name in its header is no text") from exc


def rounded(size: int) -> int:
    """`size` up to whole sectors, as QEMU shows a raw file whose length is odd."""
    return -(-size // SECTOR) * SECTOR


def write_empty(path: Path, size: int, backing: tuple[str, str] | None = None, mode: int = 0o644) -> None:
    """Make an empty qcow2 image of `size` bytes (rounded up to sectors), or an overlay; on the medium when it returns.

    `backing` is the name of the base as the header shall say it, and the base's format; both are taken as given.
    The file takes 12 KiB. Raises NoSpace, FileTrouble, also when `path` exists.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
    try:
        _fill(descriptor, rounded(size), backing)
    except OSError as exc:
        os.unlink(path)
        raise trouble_writing(path, exc) from exc
    finally:
        os.close(descriptor)


def _fill(descriptor: int, size: int, backing: tuple[str, str] | None) -> None:
    """Four things, each from its own cluster on: header, refcount table, refcount block, and an L1 table of zeros."""
    table, block, l1 = CLUSTER, 2 * CLUSTER, 3 * CLUSTER
    entries = max(1, -(-size // _L2_SPAN))
    clusters = 3 + -(-entries * 8 // CLUSTER)
    os.ftruncate(descriptor, clusters * CLUSTER)
    for at, content in (
        (0, _header(size, entries, table, l1, backing)),
        (table, struct.pack(">Q", block)),
        (block, struct.pack(">H", 1) * clusters),
    ):
        write_at(descriptor, content, at)
    os.fsync(descriptor)


def _header(size: int, entries: int, table: int, l1: int, backing: tuple[str, str] | None) -> bytes:
    length = _HEADER.size + _MORE.size
    extension, name = b"", b""
    if backing:
        name, kind = backing[0].encode(), backing[1].encode()
        extension = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind.ljust(-(-len(kind) // 8) * 8, b"\0")
    extension += bytes(8)  # ends the list
    at = length + len(extension) if name else 0
    fields = (MAGIC, 3, at, len(name), CLUSTER_BITS, size, 0, entries, l1, table, 1, 0, 0)
    return _HEADER.pack(*fields) + _MORE.pack(0, 0, 0, 4, length) + extension + name


def read(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """The first 4 KiB of a file, which hold any header here, and its length. Raises FileTrouble."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, 4096, 0), os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise FileTrouble("cannot read the disk", os.fspath(path), exc) from exc
