"""The inside of an archive: a header for each file, then its content.

    magic, u16 length of the header, fields of a three-letter key, a letter for the type, a value

All numbers are little-endian. Blobs stand behind the header in the order of their fields.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tartlet.archive.container import ENTRY_MAGICS
from tartlet.archive.errors import BadArchive

_START = struct.Struct("<4sH")
_NUMBERS = {"1": "<B", "2": "<H", "4": "<I", "8": "<Q"}
_BLOBS = {"A": "<H", "B": "<I", "C": "<Q"}
_SKIPPED = {"S": 8, "T": 12, "F": 4, "G": 20, "H": 32, "I": 48, "J": 64, "*": 0}
"""Bytes of values that nobody asks for here: times, hashes, flags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an archive says of one entry."""

    kind: str
    """D for a folder, F for a file, L for a link, others for other things."""
    path: bytes
    """Relative; empty for the folder that everything is in."""
    blobs: tuple[tuple[str, int], ...] = ()
    """Keys and bytes of what stands behind the header, in this order; the content of a file is `DAT`."""


def header_length(start: bytes) -> int:
    """Bytes of a header that begins with these six. Raises BadArchive."""
    magic, length = _START.unpack(start)
    if magic not in ENTRY_MAGICS or length < _START.size:
        raise BadArchive("there is no entry where one should begin")
    return int(length)


def parsed(fields: bytes) -> Header:
    """A header without its first six bytes. Raises BadArchive."""
    kind, path, blobs, at = "", b"", list[tuple[str, int]](), 0
    try:
        while at < len(fields):
            key, form, at = fields[at : at + 3].decode(), chr(fields[at + 3]), at + 4
            if form in _NUMBERS:
                (number,) = struct.unpack_from(_NUMBERS[form], fields, at)
                kind = chr(number) if key == "TYP" else kind
                at += int(form)
            elif form == "P":
                (length,) = struct.unpack_from("<H", fields, at)
                text = fields[at + 2 : at + 2 + length]
                path = text if key == "PAT" else path
                at += 2 + length
            elif form in _BLOBS:
                (size,) = struct.unpack_from(_BLOBS[form], fields, at)
                blobs.append((key, size))
                at += struct.calcsize(_BLOBS[form])
            else:
                at += _SKIPPED[form]
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError, ValueError) as exc:
        raise BadArchive("the header of an entry makes no sense") from exc
    if at != len(fields) or not kind:
        raise BadArchive("the header of an entry makes no sense")
    return Header(kind=kind, path=path, blobs=tuple(blobs))


def made(kind: str, path: bytes, *, mode: int, moment: int, size: int | None = None) -> bytes:
    """A whole header: a folder, or with a `size` in bytes a file whose content follows. `moment` is in Unix seconds."""
    time = struct.pack("<QI", moment, 0)
    fields = [
        b"TYP1" + kind.encode(),
        b"PATP" + struct.pack("<H", len(path)) + path,
        b"UID1\0",
        b"GID1\0",
        b"MOD2" + struct.pack("<H", mode),
        b"FLG1\0",
        b"MTMT" + time,
        b"CTMT" + time,
    ]
    if size is not None:
        fields.append(_content(size))
    body = b"".join(fields)
    return _START.pack(ENTRY_MAGICS[0], _START.size + len(body)) + body


def _content(size: int) -> bytes:
    form = next(form for form, pack in _BLOBS.items() if size < 1 << 8 * struct.calcsize(pack))
    return b"DAT" + form.encode() + struct.pack(_BLOBS[form], size)
