"""The choice of what to prune, among values: no file is touched."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tartlet.disk.footprint import Footprint, Measured, Share, freed, together
from tartlet.image.cache.prune import (
    IN_USE,
    Kind,
    Prunable,
    Pruning,
    not_used_since,
    over_budget,
    to_reclaim,
    with_holders,
    without,
)


def entry(
    name: str, accessed: float, own: int, shares: Mapping[Hashable, Share] | None = None, **more: str
) -> Prunable:
    return Prunable(
        kind=Kind.IMAGE,
        name=name,
        path=Path("/cache") / name,
        accessed=accessed,
        footprint=Footprint(own=own, shares=shares or {}),
        kept=more.get("kept"),
    )


def names(entries: Sequence[Prunable]) -> set[str]:
    return {one.name for one in entries}


class World:
    """Entries that go when they are removed, as files do."""

    def __init__(self, entries: Sequence[Prunable], used: frozenset[str] = frozenset()) -> None:
        self.entries, self.used = list(entries), used

    def listing(self) -> list[Prunable]:
        return [
            replace(one, remove=partial(self.remove, one), is_used=partial(self.is_used, one)) for one in self.entries
        ]

    def is_used(self, entry: Prunable) -> bool:
        return entry.name in self.used

    def remove(self, gone: Prunable) -> bool:
        if self.is_used(gone):
            return False
        self.entries = without(self.entries, gone)
        return True


def removed(pruning: Pruning) -> list[str]:
    return [one.entry.name for one in pruning.decisions if one.removed]


SHARED: Mapping[Hashable, Share] = {"base": Share(1, 2, 128)}
X, Y = entry("x", 1, 10, SHARED), entry("y", 2, 20, SHARED)


def test_what_two_share_goes_with_the_second() -> None:
    assert (X.size, Y.size) == (10, 20)
    assert freed([X.footprint, Y.footprint]) == 158
    assert without([X, Y], X)[0].size == 148


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_must_stay_over_a_budget_is_told(dry_run: bool) -> None:
    pruning = Pruning(World([entry("a", 1, 10), entry("b", 2, 10, kept="it is dear")]).listing(), dry_run=dry_run)
    pruning.within(9, "full")
    assert [(one.entry.name, one.reason, one.removed) for one in pruning.decisions] == [
        ("a", "full", True),
        ("b", "full, but it is dear", False),
    ]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_shared_part_is_charged_to_the_last_used_and_then_to_the_next(dry_run: bool) -> None:
    world = World([X, Y])
    pruning = Pruning(world.listing(), dry_run=dry_run)
    pruning.within(29, "full")
    assert removed(pruning) == ["y", "x"]
    assert [one.freed for one in pruning.decisions] == [20, 138]
    assert len(world.entries) == (2 if dry_run else 0)


@pytest.mark.parametrize(("budget", "gone"), [(158, ""), (157, "x"), (148, "x"), (147, "y"), (138, "y"), (137, "yx")])
def test_a_shared_part_is_charged_once(budget: int, gone: str) -> None:
    pruning = Pruning(World([X, Y]).listing())
    pruning.within(budget, "full")
    assert "".join(removed(pruning)) == gone


def test_the_newest_two_and_what_they_share_go_where_an_old_small_one_fits() -> None:
    newest, middle = (entry(name, accessed, 5, SHARED) for name, accessed in (("n", 3), ("m", 2)))
    pruning = Pruning(World([newest, middle, entry("r", 1, 32)]).listing())
    pruning.within(32, "full")
    assert removed(pruning) == ["n", "m"]
    assert sum(one.freed for one in pruning.decisions) == 138


@pytest.mark.parametrize(
    ("budget", "gone"),
    [(0, "cba"), (9, "cba"), (10, "cb"), (20, "ca"), (29, "ca"), (30, "ba"), (40, "b"), (59, "a"), (60, "")],
)
def test_a_budget_keeps_the_most_recently_used_that_fit(budget: int, gone: str) -> None:
    pruning = Pruning(World([entry("a", 1, 10), entry("b", 2, 20), entry("c", 3, 30)]).listing())
    pruning.within(budget, "full")
    assert "".join(removed(pruning)) == gone


def test_age_is_met_at_the_very_moment() -> None:
    entries = [entry("a", 99.5, 1), entry("b", 100, 1), entry("c", 100.5, 1)]
    pruning = Pruning(World(entries).listing())
    pruning.older_than(100, "old")
    assert removed(pruning) == ["a", "b"]


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [(-1, ""), (0, ""), (1, "a"), (10, "a"), (11, "ab"), (30, "ab"), (31, "abc"), (60, "abc"), (61, "")],
)
def test_as_much_as_is_wanted_goes_or_nothing(wanted: int, gone: str) -> None:
    pruning = Pruning(World([entry("c", 3, 30), entry("b", 2, 20), entry("a", 1, 10)]).listing())
    given = pruning.reclaim(wanted, "room")
    assert "".join(removed(pruning)) == gone
    assert given == sum(one.freed for one in pruning.decisions)


def test_what_is_spared_or_used_stays_and_others_go_instead() -> None:
    world = World([entry("a", 1, 10), entry("b", 2, 10), entry("c", 3, 10), entry("d", 4, 10)], frozenset("b"))
    pruning = Pruning(world.listing())
    assert pruning.reclaim(20, "room", [Path("/cache/a")]) == 20
    assert removed(pruning) == ["c", "d"]
    assert [(one.entry.name, one.reason) for one in pruning.decisions if not one.removed] == [("b", IN_USE)]


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_used_is_told_once_and_age_goes_on(dry_run: bool) -> None:
    world = World([entry("a", 1, 10), entry("b", 2, 10), entry("c", 3, 10, kept="it is dear")], frozenset("a"))
    pruning = Pruning(world.listing(), dry_run=dry_run)
    pruning.older_than(5, "old")
    pruning.within(0, "full")
    assert [(one.entry.name, one.reason) for one in pruning.decisions] == [
        ("a", IN_USE),
        ("b", "old"),
        ("c", "old, but it is dear"),
    ]
    assert names(world.entries) == (set("abc") if dry_run else set("ac"))


def test_what_a_vm_has_too_is_kept_but_not_what_other_entries_have() -> None:
    stood_on = entry("stood on", 1, 5, {"disk": Share(1, 2, 100)})
    pair = [entry(name, 2, 5, {"pieces": Share(1, 2, 100)}) for name in ("v1", "v2")]
    kept = {one.name: one.kept for one in with_holders([stood_on, *pair])}
    assert "a VM stands on it" in (kept["stood on"] or "")
    assert kept["v1"] is kept["v2"] is None
    vm = replace(stood_on, kind=Kind.VM)
    assert with_holders([vm])[0].kept is None


def test_blocks_are_counted_by_who_has_them() -> None:
    found = {
        "a": Measured(own=1, links={}, blocks=((1, 0, 100), (1, 100, 150))),
        "b": Measured(own=2, links={}, blocks=((1, 50, 120), (2, 0, 100))),
        "c": Measured(own=0, links={}, blocks=((1, 200, 300), (1, 200, 300))),
    }
    footprints = together(found)
    assert {name: one.alone for name, one in footprints.items()} == {"a": 1, "b": 2, "c": 100}
    assert {name: one.allocated for name, one in footprints.items()} == {"a": 151, "b": 172, "c": 100}
    assert freed([footprints["a"], footprints["b"]]) == 3 + 70


shares = st.dictionaries(st.sampled_from(["p", "q", "r"]), st.integers(1, 2), max_size=3)
worlds = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40), shares, st.booleans()), max_size=7)


def world_of(drawn: Sequence[tuple[int, int, Mapping[str, int], bool]], seed: int) -> World:
    """Entries that share three files; each of those has a name elsewhere or not."""
    chance = random.Random(seed)
    links = {key: sum(names.get(key, 0) for _, _, names, _ in drawn) + chance.randrange(2) for key in "pqr"}
    return World(
        [
            entry(
                f"e{number}",
                accessed,
                own,
                {key: Share(count, links[key], {"p": 7, "q": 31, "r": 100}[key]) for key, count in had.items()},
            )
            for number, (accessed, own, had, _) in enumerate(drawn)
        ],
        frozenset(f"e{number}" for number, (*_, used) in enumerate(drawn) if used),
    )


@settings(deadline=None)
@given(drawn=worlds, seed=st.integers(0, 99), budget=st.integers(0, 200), moment=st.integers(0, 6))
def test_a_dry_run_says_what_happens(
    drawn: list[tuple[int, int, dict[str, int], bool]], seed: int, budget: int, moment: int
) -> None:
    told = list[list[tuple[str, str, int, bool]]]()
    for dry_run in (True, False):
        pruning = Pruning(world_of(drawn, seed).listing(), dry_run=dry_run)
        pruning.older_than(moment, "old")
        pruning.within(budget, "full")
        pruning.reclaim(budget, "room")
        told.append([(one.entry.name, one.reason, one.freed, one.removed) for one in pruning.decisions])
    assert told[0] == told[1]


@settings(deadline=None)
@given(drawn=worlds, seed=st.integers(0, 99), budget=st.integers(0, 200))
def test_what_stays_fits_the_budget_or_must_stay(
    drawn: list[tuple[int, int, dict[str, int], bool]], seed: int, budget: int
) -> None:
    world = world_of(drawn, seed)
    pruning = Pruning(world.listing())
    pruning.within(budget, "full")
    must_stay = names([one for one in with_holders(world.entries) if one.kept]) | world.used
    free_to_go = [one.footprint for one in world.entries if one.name not in must_stay]
    assert freed(free_to_go) <= budget
    assert not names([one.entry for one in pruning.decisions if one.removed]) & world.used
    before = freed(one.footprint for one in world_of(drawn, seed).entries)
    assert before - sum(one.freed for one in pruning.decisions) == freed(one.footprint for one in world.entries)


@settings(deadline=None)
@given(drawn=worlds, seed=st.integers(0, 99), wanted=st.integers(0, 200))
def test_reclaiming_gives_enough_and_nothing_pointless(
    drawn: list[tuple[int, int, dict[str, int], bool]], seed: int, wanted: int
) -> None:
    world = world_of([(*one[:3], False) for one in drawn], seed)
    may_go = [one for one in with_holders(world.entries) if not one.kept]
    possible = freed(one.footprint for one in may_go)
    pruning = Pruning(world.listing())
    given = pruning.reclaim(wanted, "room")
    if not wanted or possible < wanted:
        assert pruning.decisions == []
        return
    assert given >= wanted
    assert given - pruning.decisions[-1].freed < wanted
    ages = [one.entry.accessed for one in pruning.decisions]
    assert ages == sorted(ages)


@settings(deadline=None)
@given(drawn=worlds, seed=st.integers(0, 99), moment=st.integers(0, 6))
def test_the_choices_take_only_what_may_go(
    drawn: list[tuple[int, int, dict[str, int], bool]], seed: int, moment: int
) -> None:
    entries = [replace(one, kept="dear") for one in world_of(drawn, seed).entries]
    assert not_used_since(entries, moment) is None
    assert over_budget(entries, 0) is None
    assert to_reclaim(entries, 1) is None
