"""What may go, in which order and why: a choice among values, and the deleting that follows it step by step.

What is free after each deletion is worked out and not measured: some file systems give room back only later, and so a
dry run makes the same choices.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tartlet.disk.footprint import Footprint, freed
from tartlet.units import human_size

IN_USE = "another process uses it"
_LEAST_WORTH = 1 / 2
"""Which part of its room an entry has to give back for its removal to be worth anything."""


class Kind(enum.StrEnum):
    """What an entry is."""

    IMAGE = "image"
    INTERRUPTED = "interrupted pull"
    RESTORE_IMAGE = "restore image"
    GUEST = "built guest"
    DOWNLOAD = "download"
    VM = "vm"
    LEFT_OVER = "left-over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """Something that can be removed. A value, with the way to do it."""

    kind: Kind
    name: str
    """For people."""
    path: Path
    accessed: float
    """When it was last used, in Unix seconds."""
    footprint: Footprint
    kept: str | None = None
    """Why it must stay, if it must."""
    remove: Callable[[], bool] = field(default=lambda: True, compare=False)
    """Removes it; False when somebody uses it. Fine with one that is gone already."""
    is_used: Callable[[], bool] = field(default=lambda: False, compare=False)
    """Whether somebody uses it at this moment."""

    @property
    def size(self) -> int:
        """Bytes that removing it would give back."""
        return self.footprint.alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """One decision: an entry that went, or would in a dry run, or that a criterion met and that stays all the same."""

    entry: Prunable
    reason: str
    freed: int = 0
    """Bytes given back."""
    removed: bool = True
    """False for what stays."""


def with_holders(entries: Sequence[Prunable]) -> list[Prunable]:
    """The entries; cached ones that mostly consist of what a VM has too are marked as kept."""
    return [replace(entry, kept=entry.kept or _stood_on(entry, entries)) for entry in entries]


def without(entries: Sequence[Prunable], gone: Prunable) -> list[Prunable]:
    """What is left when one is removed."""
    left = [entry for entry in entries if entry.path != gone.path]
    return [replace(entry, footprint=entry.footprint.without(gone.footprint)) for entry in left]


def not_used_since(entries: Sequence[Prunable], moment: float) -> Prunable | None:
    """The least recently used entry, if it was last used at `moment` (Unix seconds) or earlier and may go."""
    return next((entry for entry in _oldest_first(entries) if entry.accessed <= moment and not entry.kept), None)


def over_budget(entries: Sequence[Prunable], budget: int) -> Prunable | None:
    """Of the entries from the most recently used on, the first that finds no room any more in `budget` bytes.

    What several have in common is charged to the first of them. An old small one may stay where a newer big one has
    to go. What must stay takes room like the others if it fits.
    """
    return next((entry for entry in _without_room(entries, budget) if not entry.kept), None)


def _without_room(entries: Sequence[Prunable], budget: int) -> Iterator[Prunable]:
    left, rest = budget, _oldest_first(entries)
    while rest:
        before = freed(one.footprint for one in rest)
        entry = rest.pop()
        charge = before - freed(one.footprint for one in rest)
        if charge <= left:
            left -= charge
        else:
            yield entry


def to_reclaim(entries: Sequence[Prunable], wanted: int) -> Prunable | None:
    """The next entry to remove when `wanted` more bytes have to become free, the least recently used first.

    None when nothing is wanted, and when all of them together would not give as much: then none should go.
    """
    may_go = [entry for entry in _oldest_first(entries) if not entry.kept]
    if wanted <= 0 or freed(entry.footprint for entry in may_go) < wanted:
        return None
    return may_go[0]


class Pruning:
    """One prune of what was found: decides, removes, decides again."""

    def __init__(self, entries: Sequence[Prunable], *, dry_run: bool = False) -> None:
        self._entries, self._dry_run = with_holders(entries), dry_run
        self.decisions: list[Pruned] = []

    def these(self, paths: Collection[Path], reason: str) -> None:
        """Remove the entries at `paths`, but for those that somebody uses. Raises what removing raises, as all do."""
        for entry in [one for one in self._entries if one.path in paths]:
            self._removed(entry, reason)

    def older_than(self, moment: float, reason: str) -> None:
        """Remove what was last used at `moment` (Unix seconds) or earlier."""
        while entry := not_used_since(self._entries, moment):
            self._removed(entry, reason)
        self._tell_kept((entry for entry in self._entries if entry.accessed <= moment), reason)

    def within(self, budget: int, reason: str) -> None:
        """Remove what finds no room in `budget` bytes, the most recently used counted first."""
        while entry := over_budget(self._entries, budget):
            self._removed(entry, reason)
        self._tell_kept(_without_room(self._entries, budget), reason)

    def reclaim(self, wanted: int, reason: str, spare: Collection[Path] = ()) -> int:
        """Make `wanted` bytes free, or remove nothing; what is at the paths `spare` stays. Gives the bytes."""
        for path in spare:
            self._keep(path, "it is needed right now")
        given = 0
        while entry := to_reclaim(self._entries, wanted - given):
            given += self._removed(entry, reason)
        return given

    def _removed(self, entry: Prunable, reason: str) -> int:
        """Remove `entry` unless it is in use, and note how it went. Gives the bytes that are free now."""
        if entry.is_used() if self._dry_run else not entry.remove():
            self._keep(entry.path, IN_USE)
            self.decisions.append(Pruned(entry=entry, reason=IN_USE, removed=False))
            return 0
        self.decisions.append(Pruned(entry=entry, reason=reason, freed=entry.size))
        self._entries = without(self._entries, entry)
        return entry.size

    def _tell_kept(self, entries: Iterable[Prunable], reason: str) -> None:
        told = {one.entry.path for one in self.decisions}
        for entry in entries:
            if entry.path not in told:
                self.decisions.append(Pruned(entry=entry, reason=f"{reason}, but {entry.kept}", removed=False))

    def _keep(self, path: Path, why: str) -> None:
        self._entries = [replace(one, kept=one.kept or why) if one.path == path else one for one in self._entries]


def _oldest_first(entries: Sequence[Prunable]) -> list[Prunable]:
    return sorted(entries, key=lambda entry: (entry.accessed, str(entry.path)))


def _stood_on(entry: Prunable, entries: Sequence[Prunable]) -> str | None:
    if entry.kind is Kind.VM:
        return None
    others = [other.footprint for other in entries if other.path != entry.path]
    with_it = freed([*others, entry.footprint]) - freed(others)
    if with_it >= entry.footprint.allocated * _LEAST_WORTH:
        return None
    return f"a VM stands on it: removing it would free {human_size(with_it)} of {human_size(entry.footprint.allocated)}"
