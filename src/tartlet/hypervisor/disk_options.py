"""`--disk` and `--root-disk-opts`: what the words mean. Pure; nothing is opened here (see `block_nodes`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tartlet.errors import InvalidArgument, UserError

FULL, FSYNC, NONE = "full", "fsync", "none"
SYNC_OF_FILES: Final = (NONE, FSYNC, FULL)
SYNC_OF_DEVICES: Final = (NONE, FULL)

AUTOMATIC, CACHED, UNCACHED = "automatic", "cached", "uncached"
CACHING: Final = (AUTOMATIC, CACHED, UNCACHED)

_NBD_SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")


class UnknownDiskOption(UserError):
    """A value of `sync=` or `caching=` that this kind of disk does not know."""

    def __init__(self, option: str, value: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown value {value!r} for the disk option {option}=")
        self.hint = f"use one of {', '.join(known)}"
        self.option, self.value = option, value


class EmptyDiskPath(InvalidArgument):
    """A `--disk` of which nothing but options is left."""

    def __init__(self, value: str) -> None:
        super().__init__(f"--disk {value!r} names no disk", "write it as PATH or PATH:OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """The option words of one disk; None where none was given."""

    read_only: bool = False
    sync: str | None = None
    caching: str | None = None

    def checked_sync(self, known: tuple[str, ...] = SYNC_OF_FILES) -> str:
        """The synchronisation mode, `full` by default. Raises UnknownDiskOption."""
        return _known("sync", self.sync, known, FULL)

    def checked_caching(self, default: str = AUTOMATIC) -> str:
        """The caching mode. Raises UnknownDiskOption."""
        return _known("caching", self.caching, CACHING, default)


@dataclass(frozen=True, slots=True)
class DiskArgument:
    """A `--disk` value taken apart."""

    path: str
    """A path, a URL or the name of a remote image, as written."""
    options: DiskOptions

    @property
    def is_nbd(self) -> bool:
        """Whether this names a network block device."""
        scheme, separator, _ = self.path.partition(":")
        return bool(separator) and scheme.lower() in _NBD_SCHEMES


def parse_disk_option(value: str) -> DiskArgument:
    """Take a `--disk` value apart: `PATH[:OPTIONS]`, where only a last piece with a known word counts as options.

    Empty pieces between colons are dropped, as the original does. Raises EmptyDiskPath.
    """
    pieces = [piece for piece in value.split(":") if piece]
    options = DiskOptions()
    if pieces and _has_known_word(pieces[-1]):
        options = parse_root_disk_options(pieces.pop())
    path = ":".join(pieces)
    if not path:
        raise EmptyDiskPath(value)
    return DiskArgument(path, options)


def parse_root_disk_options(value: str) -> DiskOptions:
    """Read a comma-separated list of option words; unknown words are ignored, as the original does."""
    read_only, named = False, dict[str, str]()
    for word in value.split(","):
        name, separator, setting = word.partition("=")
        if word == "ro":
            read_only = True
        elif separator and name in ("sync", "caching"):
            named[name] = setting
    return DiskOptions(read_only=read_only, sync=named.get("sync"), caching=named.get("caching"))


def _has_known_word(piece: str) -> bool:
    return any(word == "ro" or word.startswith(("sync=", "caching=")) for word in piece.split(","))


def _known(option: str, value: str | None, known: tuple[str, ...], default: str) -> str:
    if value is None:
        return default
    if value not in known:
        raise UnknownDiskOption(option, value, known)
    return value
