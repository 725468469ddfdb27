"""`--dir`: what the words mean, and which folders go together. Pure; no path is looked at here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tartlet.errors import InvalidArgument

AUTOMOUNT_TAG = "com.apple.virtio-fs.automount"
"""The tag of folders that ask for no other. A macOS guest mounts it by itself, and so do guests built here."""

LONGEST_TAG = 36
"""Bytes (VIRTIO 1.2, 5.11.4)."""


class BadShare(InvalidArgument):
    """A `--dir` value that cannot be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One `--dir` value taken apart."""

    path: str
    """A path or the address of an archive, as written."""
    name: str | None = None
    read_only: bool = False
    tag: str = AUTOMOUNT_TAG
    sync: bool = False
    """Copied into the guest at the start and brought back at the end, instead of being served."""

    @property
    def is_address(self) -> bool:
        """Whether this is an archive on the web."""
        return self.path.startswith(("http:", "https:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """A folder that is synchronised with a copy in the guest."""

    path: str
    """On this host; absolute."""
    guest_path: str
    read_only: bool
    """The copy's changes are not brought back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The folders behind one tag: a single one without a name, or any number with names."""

    tag: str
    shares: tuple[Share, ...]


def parse_share_option(value: str) -> Share:
    """Take `[NAME:]PATH[:OPTIONS]` apart, as the original does. Raises BadShare, with the place of the mistake.

    Only a last piece with `ro`, `sync` or `tag=` in it counts as options; other words in it are ignored. Empty pieces
    between colons are dropped. An address may have a name in front.
    """
    pieces = [piece for piece in value.split(":") if piece]
    options = pieces.pop() if pieces and _is_options(pieces[-1]) else ""
    rest = ":".join(pieces)
    if not rest:
        raise BadShare(f"--dir {value!r} names no folder", "write it as PATH, NAME:PATH or NAME:PATH:ro,tag=TAG")
    share = Share(path=rest)
    if not share.is_address:
        name, colon, path = rest.partition(":")
        share = Share(path=path, name=_checked_name(name, value)) if colon else share
    return _with_options(share, options, value)


def grouped(values: Iterable[str]) -> list[Group]:
    """The folders by tag, in the order in which tags first appear. Of folders with one name the last one wins.

    Raises BadShare, also when folders with one tag need names and have none.
    """
    by_tag: dict[str, list[Share]] = {}
    for share in map(parse_share_option, values):
        if not share.sync:
            by_tag.setdefault(share.tag, []).append(share)
    return [Group(tag=tag, shares=_named_apart(tag, shares)) for tag, shares in by_tag.items()]


def synced(values: Iterable[str]) -> list[Synced]:
    """The folders to synchronise, each once in the guest: of those with one name and tag the last one wins.

    Raises BadShare, also for one whose place in the guest is another's mount.
    """
    values = list(values)
    mounted = {group.tag for group in grouped(values)}
    found = [share for share in map(parse_share_option, values) if share.sync]
    for share in found:
        if share.tag in mounted:
            raise BadShare(
                f"--dir: {share.path} is to be copied to where the shared folders with the tag {share.tag!r} are",
                "give it another tag: PATH:sync,tag=code is at /mnt/code/NAME in the guest",
            )
    return list({copy.guest_path: copy for copy in map(_synced, found)}.values())


def _synced(share: Share) -> Synced:
    path = os.path.abspath(os.path.expanduser(share.path))
    name = share.name or os.path.basename(path)
    if share.is_address:
        raise BadShare(f"--dir: the archive {share.path} is a copy already", "leave out :sync")
    if not name:
        raise BadShare("--dir: / needs a name to be synchronised", "write it as NAME:/:sync")
    if "/" in share.tag or share.tag in (".", ".."):
        raise BadShare(f"--dir: {share.tag!r} cannot be a folder in the guest's /mnt", "use a tag without /")
    top = "shared" if share.tag == AUTOMOUNT_TAG else share.tag
    return Synced(path=path, guest_path=f"/mnt/{top}/{name}", read_only=share.read_only)


def _is_options(piece: str) -> bool:
    return any(word in ("ro", "sync") or word.startswith("tag=") for word in piece.split(","))


def _checked_name(name: str, value: str) -> str:
    if "/" in name or name in (".", ".."):
        raise BadShare(
            f"--dir {value!r}: {name!r}, characters 1 to {len(name)}, is no name for a folder",
            "a path with a colon in it needs a name in front: NAME:PATH. Options are ro, sync and tag=TAG",
        )
    return name


def _with_options(share: Share, options: str, value: str) -> Share:
    for word in options.split(","):
        if word == "ro":
            share = replace(share, read_only=True)
        elif word == "sync":
            share = replace(share, sync=True)
        elif word.startswith("tag="):
            share = replace(share, tag=_checked_tag(word, value))
    return share


def _checked_tag(word: str, value: str) -> str:
    tag = word.removeprefix("tag=")
    if 0 < len(tag.encode()) <= LONGEST_TAG:
        return tag
    wrong = f"longer than {LONGEST_TAG} bytes" if tag else "empty"
    raise BadShare(f"--dir {value!r}: the tag at character {value.rindex(word) + len('tag=') + 1} is {wrong}")


def _named_apart(tag: str, shares: list[Share]) -> tuple[Share, ...]:
    if len(shares) > 1 and any(share.name is None for share in shares):
        paths = ", ".join(share.path for share in shares)
        raise BadShare(
            f"--dir: the folders {paths} have the same tag {tag!r}, so each of them needs a name",
            "write them as NAME:PATH, or give them tags of their own: PATH:tag=TAG",
        )
    return tuple({share.name: share for share in shares}.values())
