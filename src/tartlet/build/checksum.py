"""Whether a file is the one its publisher means."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import anyio

from tartlet.build.progress import Progress, Report
from tartlet.errors import FileTrouble, InvalidArgument, UserError

_PIECE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest and the way it is made."""

    algorithm: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """From `sha256:…` or `sha512:…`. Raises InvalidArgument."""
        algorithm, _, digest = text.strip().lower().partition(":")
        length = {"sha256": 64, "sha512": 128}.get(algorithm)
        if length is None or not re.fullmatch(f"[0-9a-f]{{{length}}}", digest):
            raise InvalidArgument(
                f"{text!r} is no checksum", "write sha256: and 64 hexadecimal digits, or sha512: and 128"
            )
        return cls(algorithm, digest)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


class ChecksumMismatch(UserError):
    """A file is not the one that was meant."""

    def __init__(self, path: Path, expected: Checksum, actual: Checksum) -> None:
        super().__init__(
            f"the checksum of {path} is {actual}, not {expected}",
            "it was changed or damaged on its way; compare the checksum with its publisher's",
        )
        self.expected, self.actual = expected, actual


async def verify(path: Path, expected: Checksum, report: Report) -> None:
    """Read the whole file. Raises ChecksumMismatch, FileTrouble."""
    told = hashlib.new(expected.algorithm)
    done = 0
    try:
        async with await anyio.open_file(path, "rb") as file:
            total = os.stat(path).st_size
            while piece := await file.read(_PIECE):
                await anyio.to_thread.run_sync(told.update, piece)
                done += len(piece)
                report(Progress("checking the checksum", done, total))
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    actual = Checksum(expected.algorithm, told.hexdigest())
    if actual != expected:
        raise ChecksumMismatch(path, expected, actual)
