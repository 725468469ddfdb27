"""`--dir`: what the words mean, and which folders go together. Pure; no path is looked at here."""

from __future__ import annotations

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

    @property
    def is_address(self) -> bool:
        """Whether this is an archive on the web."""
        return self.path.startswith(("http:", "https:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The folders behind one tag: a single one without a name, or any number with names."""

    tag: str
    shares: tuple[Share, ...]


def parse_share_option(value: str) -> Share:
    """Take `[NAME:]PATH[:OPTIONS]` apart, as the original does. Raises BadShare, with the place of the mistake.

    Only a last piece with `ro` or `tag=` in it counts as options; other words in it are ignored. Empty pieces between
    colons are dropped. An address may have a name in front.
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
        by_tag.setdefault(share.tag, []).append(share)
    return [Group(tag=tag, shares=_named_apart(tag, shares)) for tag, shares in by_tag.items()]


def _is_options(piece: str) -> bool:
    return any(word == "ro" or word.startswith("tag=") for word in piece.split(","))


def _checked_name(name: str, value: str) -> str:
    if "/" in name or name in (".", ".."):
        raise BadShare(
            f"--dir {value!r}: {name!r}, characters 1 to {len(name)}, is no name for a folder",
            "a path with a colon in it needs a name in front: NAME:PATH. Options are ro and tag=TAG",
        )
    return name


def _with_options(share: Share, options: str, value: str) -> Share:
    for word in options.split(","):
        if word == "ro":
            share = replace(share, read_only=True)
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
