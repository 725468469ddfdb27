"""How far a long piece of work is, told to whoever asked to be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a longer work."""

    stage: str
    """What is going on, in words for the user: `downloading debian-12.qcow2`."""
    done: int = 0
    """Units of work finished in this stage (bytes, mostly)."""
    total: int | None = None
    """Units of work in this stage; None when nobody can know."""


Report = Callable[[Progress], None]
"""Takes a Progress; must return at once."""


def silent(_: Progress) -> None:
    """The Report of those who do not want to know."""
