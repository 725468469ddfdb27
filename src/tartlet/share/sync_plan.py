"""What a synchronisation has to do, from what both sides agreed on and what each of them has now. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from tartlet.share.tree import Entry, same


class Step(enum.Enum):
    """What becomes of one path."""

    SEND = "send"
    """The guest gets what the host has, also when that is nothing."""
    BRING = "bring"
    """The host gets what the guest has, also when that is nothing."""
    CONTEST = "contest"
    """Both changed it: the same change, or two."""
    AGREE = "agree"
    """Both have come to the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One path as the guest tells it."""

    agreed_host: Entry | None
    agreed_guest: Entry | None
    guest: Entry | None


@dataclass(slots=True)
class Plan:
    """The paths with something to do, and what is there."""

    host: Mapping[str, Entry]
    known: Mapping[str, Known]
    steps: dict[str, Step] = field(default_factory=dict[str, Step])

    def paths(self, *steps: Step) -> list[str]:
        """Those with one of these steps, parents first."""
        return sorted(path for path, step in self.steps.items() if step in steps)

    def wanted(self) -> list[str]:
        """The files whose content has to come from the guest."""
        paths = self.paths(Step.BRING, Step.CONTEST)
        return [path for path in paths if (found := self.known[path].guest) is not None and found.kind == "f"]

    @property
    def guest_changed(self) -> bool:
        """Whether the guest has anything that was not agreed on."""
        return any(not same(known.agreed_guest, known.guest) for known in self.known.values())


NOTHING = Known(agreed_host=None, agreed_guest=None, guest=None)


def planned(host: Mapping[str, Entry], known: Mapping[str, Known], *, read_only: bool) -> Plan:
    """The steps; `read_only`: the guest gets what it lacks or has changed, and the host nothing."""
    plan = Plan(host=host, known=known)
    for path in {**known, **host}:
        step = (_one_way if read_only else _step)(known.get(path, NOTHING), host.get(path))
        if step is not None:
            plan.steps[path] = step
    return plan


def _step(known: Known, host: Entry | None) -> Step | None:
    host_changed = not same(known.agreed_host, host)
    guest_changed = not same(known.agreed_guest, known.guest)
    if host_changed and guest_changed:
        return _both(host, known.guest)
    if guest_changed:
        return Step.BRING
    return Step.SEND if host_changed else None


def _both(host: Entry | None, guest: Entry | None) -> Step:
    if host is None and guest is None:
        return Step.AGREE
    if guest is None:
        return Step.SEND
    if host is not None and host.kind == guest.kind != "f":
        if same(host, guest):
            return Step.AGREE
        return Step.SEND if host.kind == "d" else Step.CONTEST
    return Step.SEND if guest.kind == "d" else Step.CONTEST


def _one_way(known: Known, host: Entry | None) -> Step | None:
    guest_changed = not same(known.agreed_guest, known.guest)
    if same(known.agreed_host, host) and not guest_changed:
        return None
    if host is None and guest_changed:  # the guest's own
        return None
    return Step.SEND
