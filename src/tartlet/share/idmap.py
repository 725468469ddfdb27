"""Who is who between host and guest: the lines of a user namespace's id map (user_namespaces(7)). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

GUEST_USER = 1000
"""Uid and gid that the first ordinary user of a guest has in every distribution. It owns what is shared."""

_END = 2**32 - 1
"""One more than the greatest id."""

Ranges = list[tuple[int, int]]
"""First id and how many, each."""


def only(owner: int) -> str:
    """The map with which everything of `owner` is the guest user's, and everything else nobody's."""
    return f"{GUEST_USER} {owner} 1\n"


def swapped(owner: int, known: Ranges) -> str:
    """The map that root may write: `owner` and the guest user change places, all other ids stay what they are.

    `known` are the ids that root itself has names for; in a container these are not all there are.
    """
    lines = [(GUEST_USER, owner, 1)] if _has(known, owner) else []
    if owner != GUEST_USER and _has(known, GUEST_USER):
        lines.append((owner, GUEST_USER, 1))
    for start, count in _without({owner, GUEST_USER}, known):
        lines.append((start, start, count))
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)


def ids_of(table: str) -> Ranges:
    """The ids that a process has names for, from its `/proc/self/uid_map`."""
    rows = (line.split() for line in table.splitlines())
    return [(int(first), min(int(count), _END - int(first))) for first, _, count in rows]


def _has(known: Ranges, wanted: int) -> bool:
    return any(start <= wanted < start + count for start, count in known)


def _without(taken: set[int], known: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, count in known:
        at = start
        for hole in sorted(taken):
            if at <= hole < start + count:
                if hole > at:
                    yield at, hole - at
                at = hole + 1
        if at < start + count:
            yield at, start + count - at
