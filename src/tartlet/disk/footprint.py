"""How much room files take and would give back: hard links and shared blocks count when the last that has them goes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tartlet.disk.chain import names_in
from tartlet.errors import FileTrouble

_FIEMAP = 0xC020660B
"""`_IOWR('f', 11, struct fiemap)`; Linux, Documentation/filesystems/fiemap.rst."""
_REQUEST = struct.Struct("=QQLLLL")
"""Start, length, flags, extents mapped, room for extents, reserved."""
_EXTENT = struct.Struct("=QQQQQLLLL")
"""Logical, physical, length, two reserved, flags, three reserved."""
_LAST = 0x1
_SHARED = 0x2000
_AT_ONCE = 512

_STRANGER = "somebody else"


@dataclass(frozen=True, slots=True)
class Share:
    """Room that is given back only when all who have it are gone."""

    names: int
    """How often it is had here."""
    links: int
    """How often it is had altogether."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The room that some files take, in bytes. A value."""

    own: int = 0
    """Given back when these files are removed, whatever else stays."""
    shares: Mapping[Hashable, Share] = field(default_factory=dict[Hashable, Share])

    @property
    def allocated(self) -> int:
        """What the files take, shared or not."""
        return self.own + sum(share.size for share in self.shares.values())

    @property
    def alone(self) -> int:
        """What removing these files, and nothing else, gives back."""
        return self.own + sum(share.size for share in self.shares.values() if share.names >= share.links)

    def without(self, gone: Footprint) -> Footprint:
        """The same when other files are removed."""
        shares = {
            key: replace(share, links=share.links - gone.shares[key].names) if key in gone.shares else share
            for key, share in self.shares.items()
        }
        return replace(self, shares=shares)


def freed(footprints: Iterable[Footprint]) -> int:
    """What removing all of them gives back: more than the sum of each alone, when they share something."""
    total, names, shares = 0, Counter[Hashable](), dict[Hashable, Share]()
    for footprint in footprints:
        total += footprint.own
        shares.update(footprint.shares)
        names.update({key: share.names for key, share in footprint.shares.items()})
    return total + sum(share.size for key, share in shares.items() if names[key] >= share.links)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found of some files; `together` makes a footprint of it."""

    own: int
    links: Mapping[Hashable, Share]
    """Files with a name elsewhere."""
    blocks: tuple[tuple[int, int, int], ...]
    """Device, start and end in bytes of ranges that are shared, at least with themselves."""


def measured(paths: Iterable[Path]) -> Measured:
    """Look at files and at everything in folders, without changing their access times. Raises FileTrouble."""
    own, links, blocks = 0, dict[Hashable, Share](), list[tuple[int, int, int]]()
    for path, found, names in _files(paths):
        if names < found.st_nlink:
            links[found.st_dev, found.st_ino] = Share(names, found.st_nlink, found.st_blocks * 512)
            continue
        shared = list(_shared(path, found.st_dev)) if found.st_blocks else []
        own += max(0, found.st_blocks * 512 - sum(end - start for _, start, end in shared))
        blocks += shared
    return Measured(own=own, links=links, blocks=tuple(blocks))


def together(found: Mapping[str, Measured]) -> dict[str, Footprint]:
    """The footprints of what was measured, with the blocks that they share with each other and with strangers."""
    own = {name: one.own for name, one in found.items()}
    shares = {name: dict(one.links) for name, one in found.items()}
    for holders, size in _held(found).items():
        for name in holders - {_STRANGER}:
            if len(holders) == 1:
                own[name] += size
            else:
                shares[name][holders] = Share(1, len(holders), size)
    return {name: Footprint(own=own[name], shares=shares[name]) for name in found}


def _held(found: Mapping[str, Measured]) -> Mapping[frozenset[str], int]:
    """How many bytes each set of holders has in common; a range that only one has is shared with a stranger."""
    ends = [(device, start, 1, name) for name, one in found.items() for device, start, _ in one.blocks]
    ends += [(device, end, -1, name) for name, one in found.items() for device, _, end in one.blocks]
    sizes, holding, before = Counter[frozenset[str]](), Counter[str](), 0
    for _, at, change, name in sorted(ends):
        if holding and before < at:
            alone = holding.total() == 1
            sizes[frozenset({*holding, _STRANGER} if alone else holding)] += at - before
        before = at
        holding[name] += change
        if not holding[name]:
            del holding[name]
    return sizes


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result, int]]:
    """Each file once, with the number of its names among `paths`."""
    names: Counter[tuple[int, int]] = Counter()
    files: dict[tuple[int, int], tuple[Path, os.stat_result]] = {}
    for path in paths:
        for entry in _below(path):
            try:
                found = os.lstat(entry)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise FileTrouble("cannot measure", entry, exc) from exc
            if stat.S_ISREG(found.st_mode):
                names[found.st_dev, found.st_ino] += 1
                files[found.st_dev, found.st_ino] = entry, found
    yield from ((*file, names[key]) for key, file in files.items())


def _below(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    try:
        names = names_in(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise FileTrouble("cannot measure", path, exc) from exc
    for name in names:
        yield from _below(path / name)


def _shared(path: Path, device: int) -> Iterator[tuple[int, int, int]]:
    """The ranges of a file's blocks that another file uses too; none where nobody can tell. Raises FileTrouble."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (PermissionError, FileNotFoundError):
        return
    try:
        for start, length, flags in _extents(descriptor):
            if flags & _SHARED:
                yield device, start, start + length
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            raise FileTrouble("cannot measure", path, exc) from exc
    finally:
        os.close(descriptor)


def _extents(descriptor: int) -> Iterator[tuple[int, int, int]]:
    """Where each extent lies on the device, its length, its flags."""
    at, flags = 0, 0
    while not flags & _LAST:
        asked = bytearray(_REQUEST.size + _AT_ONCE * _EXTENT.size)
        _REQUEST.pack_into(asked, 0, at, (1 << 64) - 1 - at, 0, 0, _AT_ONCE, 0)
        fcntl.ioctl(descriptor, _FIEMAP, asked)
        count = _REQUEST.unpack_from(asked)[3]
        if not count:
            return
        for number in range(count):
            logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(
                asked, _REQUEST.size + number * _EXTENT.size
            )
            at = logical + length
            yield physical, length, flags
