"""What a VM's filter refused: counted in the kernel, and written down beside the VM while it runs.

The log is one JSON object a line, `Refusal`'s fields, and never longer than some MiB.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import anyio

from tartlet.errors import UserError
from tartlet.host.bounded_log import first_byte, shorten
from tartlet.network.rules.filter import Refused, VmFilter

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks at the kernel's counters."""

_LOOK = 0.2
MOST = 4 << 20
"""Bytes of a log that are kept."""

Key = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Packets of a VM to one destination that were dropped within about a second."""

    at: str
    """When that was seen: UTC, ISO 8601."""
    destination: str
    protocol: str
    """`tcp`, `udp`, `icmp`, or the number of another one."""
    port: int | None
    packets: int
    rule: str
    """What refused them: `block 10.0.0.0/8`, or `default: 192.168.0.0/16 is private`."""

    def __str__(self) -> str:
        port = f":{self.port}" if self.port is not None else ""
        times = "1 packet" if self.packets == 1 else f"{self.packets} packets"
        return f"{self.at}  {self.protocol} {self.destination}{port}  {times}  {self.rule}"


def read(line: str | bytes) -> Refusal:
    """The refusal in a line of a log. Raises ValueError."""
    try:
        members: Any = json.loads(line)
        return Refusal(**members)
    except TypeError as exc:
        raise ValueError(f"no line of a log of refusals: {line!r}") from exc


@asynccontextmanager
async def recorded(filter_: VmFilter, path: Path | None) -> AsyncGenerator[None]:
    """Append what the filter refuses to the log at `path` for the length of the block; None: nothing is recorded."""
    if path is None:
        yield
        return
    with path.open("ab", buffering=0) as file:  # opened once: the VM's folder may be renamed while it runs
        book = _Book(file)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep, filter_, book)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await _look(filter_, book)


async def _keep(filter_: VmFilter, book: _Book) -> None:
    while True:
        await _look(filter_, book)
        await anyio.sleep(EVERY)


async def _look(filter_: VmFilter, book: _Book) -> None:
    try:
        found = await filter_.refused()
    except UserError as exc:  # whoever owns the filter sees its loss too, and ends the run
        log.debug("refusals cannot be read: %s", exc)
        return
    book.add(found)


class _Book:
    """The log of one VM, and the counts that are in it already."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._counts: dict[Key, int] = {}

    def add(self, found: Iterable[Refused]) -> None:
        """Write down what has been refused since the last time."""
        counts = {(str(one.destination), one.protocol, one.port): one for one in found}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lines = [
            json.dumps(asdict(self._refusal(now, one, new)))
            for key, one in counts.items()
            # A count that fell began anew: with another policy, or after the kernel had forgotten the destination.
            if (new := one.packets - before if (before := self._counts.get(key, 0)) <= one.packets else one.packets)
        ]
        self._counts = {key: one.packets for key, one in counts.items()}
        if lines:
            self._file.write(("\n".join(lines) + "\n").encode())
            shorten(f"/proc/self/fd/{self._file.fileno()}", MOST)

    def _refusal(self, now: str, one: Refused, packets: int) -> Refusal:
        return Refusal(
            at=now,
            destination=str(one.destination),
            protocol=one.protocol,
            port=one.port,
            packets=packets,
            rule=one.rule,
        )


async def logged(path: Path, more_to_come: Callable[[], bool]) -> AsyncGenerator[Refusal]:
    """The refusals in a log, the oldest first, and those that come for as long as `more_to_come()` says so.

    None where there is no log. Raises OSError, ValueError.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if start := first_byte(file.fileno()):
            file.seek(start)
            file.readline()  # its beginning is given up
        while True:
            going_on = more_to_come()  # asked before reading: what was written before the end is not missed
            for line in _whole_lines(file):
                yield read(line)
            if not going_on:
                return
            await anyio.sleep(_LOOK)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    while True:
        here = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(here)
            return
        yield line
