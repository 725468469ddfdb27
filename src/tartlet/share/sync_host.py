"""The host's side of a synchronised folder: what the guest sends is put in place, what it is to get is written out."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tartlet.errors import FileTrouble, UserError
from tartlet.share import tree, tree_lines
from tartlet.share.stage import Stage, staging
from tartlet.share.sync_plan import NOTHING, Known, Plan, Step
from tartlet.share.tree import Entry, Refused

_MOST_PATHS = 5_000_000

_REMOVE = Entry("f", 0, 0, 0, 0, 0, "")
"""Agreed on as the host's where the host has nothing: so the guest's goes next time."""


class SyncFailed(UserError):
    """A folder was not synchronised; each side has what it had."""


@dataclass(slots=True)
class Outcome:
    """What one synchronisation did."""

    sent: int = 0
    """Changes of the host that the guest has now."""
    brought: int = 0
    """Changes of the guest that the host has now."""
    conflicts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Paths both sides had changed, and where the guest's content lies now; the host's stayed in place."""
    left: list[str] = field(default_factory=list[str])
    """Paths that were changed again meanwhile, or could not be read: they wait for the next time."""
    agreed: list[tuple[str, Entry | None, Entry | None]] = field(
        default_factory=list[tuple[str, Entry | None, Entry | None]]
    )


@contextmanager
def opened(folder: Path) -> Generator[int]:
    """The folder, with the system's and the guest's complaints as errors of ours. Raises FileTrouble, SyncFailed."""
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield top
        finally:
            os.close(top)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise FileTrouble("cannot synchronise", exc.filename or folder, exc) from exc
    except Refused as exc:
        raise SyncFailed(f"{folder} was not synchronised: {exc}") from exc


def scanned(folder: Path) -> dict[str, Entry]:
    """What is there. Raises FileTrouble."""
    with opened(folder) as top:
        return tree.scanned(top)


def told(stream: BinaryIO) -> tuple[str | None, dict[str, Known]]:
    """What the guest tells of its copy: the host's folder it was made of, and each path. Raises Refused."""
    folder: object = tree_lines.read_line(stream)
    if not isinstance(folder, str | None):
        raise Refused("what the guest says cannot be read")
    known: dict[str, Known] = {}
    for line in tree_lines.read_lines(stream):
        if len(line) != 4 or len(known) >= _MOST_PATHS:
            raise Refused("what the guest says cannot be read")
        tree.parted(str(line[0]))
        host, agreed, now = map(tree_lines.entry_from, line[1:])
        known[str(line[0])] = Known(agreed_host=host, agreed_guest=agreed, guest=now)
    return folder, known


def bring(folder: Path, plan: Plan, stream: BinaryIO | None) -> Outcome:
    """Carry out what the guest has changed; `stream` has the files that are wanted. All is staged before.

    Raises FileTrouble and SyncFailed: then nothing has changed, or what has is whole.
    """
    with opened(folder) as top, staging(top) as stage:
        bringing = _Bringing(stage, plan)
        if stream is not None:
            bringing.take(stream)
        tree.settle(top)
        bringing.place()
        tree.settle(top)
        return bringing.outcome


class _Bringing:
    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage, self._plan = stage, plan
        self.outcome = Outcome()
        self._guest = {path: known.guest for path, known in plan.known.items()}
        self._torn: set[str] = set(plan.wanted())
        self._ending = _new_ending({**plan.known, **plan.host})
        self._aside: dict[str, str] = {}
        """Folders of the guest where the host has something else, and where they go."""

    def take(self, stream: BinaryIO) -> None:
        wanted = set(self._torn)
        for line in tree_lines.read_lines(stream):
            path, entry = str(line[0]), tree_lines.entry_from(line[-1])
            if path not in wanted or entry is None or entry.kind != "f":
                raise Refused("the guest sends what it was not asked for")
            wanted.remove(path)
            self._stage.take(path, entry, stream)
            if tree_lines.read_line(stream) is True:
                self._torn.discard(path)
                self._guest[path] = entry

    def place(self) -> None:
        for path in reversed(self._plan.paths(Step.BRING)):
            if self._guest[path] is None:
                self._remove(path)
        for path in self._plan.paths(Step.SEND):
            self._note_aside(path)
        for path in self._plan.paths(Step.BRING, Step.CONTEST):
            entry = self._guest[path]
            if path in self._torn:
                self.outcome.left.append(path)
            elif entry is not None:
                self._put(path, entry)
        for path in self._plan.paths(Step.AGREE):
            self._agree(path, self._plan.host.get(path), self._guest[path])

    def _remove(self, path: str) -> None:
        host = self._plan.host.get(path)
        if host is None or self._stage.remove(path, host):
            self.outcome.brought += 1
            self._agree(path, None, None)

    def _note_aside(self, path: str) -> None:
        host, guest = self._plan.host.get(path), self._guest.get(path)
        if host is not None and host.kind != "d" and guest is not None and guest.kind == "d":
            self._aside[path] = path + self._ending

    def _put(self, path: str, entry: Entry) -> None:
        host = self._plan.host.get(path)
        if self._plan.steps[path] is Step.CONTEST and self._is_the_same(path, entry, host):
            self._agree(path, host, entry)
            return
        if self._plan.steps[path] is Step.BRING and not self._lies_aside(path):
            placed = self._stage.place(path, entry, host)
            if placed is not None:
                self.outcome.brought += 1
                self._agree(path, placed, entry)
                return
        if entry.kind != "d":
            self._put_beside(path, entry)

    def _is_the_same(self, path: str, entry: Entry, host: Entry | None) -> bool:
        is_file = host is not None and host.kind == entry.kind == "f"
        return is_file and host is not None and host.mode == entry.mode and self._stage.equals(path)

    def _put_beside(self, path: str, entry: Entry) -> None:
        aside = self._lies_aside(path)
        beside = self._aside[aside] + path[len(aside) :] if aside else path + self._ending
        if self._stage.place(beside, entry, None, staged=path) is None:
            self.outcome.left.append(path)
            return
        self.outcome.conflicts.append((path, beside))
        before = self._plan.known[path].agreed_host
        if before is None and self._plan.host.get(path) is None:
            before = _REMOVE
        self._agree(path, before, entry)  # the guest's is dealt with; what the host has, it is to get

    def _lies_aside(self, path: str) -> str:
        return next((folder for folder in self._aside if path.startswith(folder + "/")), "")

    def _agree(self, path: str, host: Entry | None, guest: Entry | None) -> None:
        self.outcome.agreed.append((path, host, guest))


def _new_ending(names: Iterable[str]) -> str:
    """What is behind the names of the guest's versions; the time, and a number when that is taken."""
    now = time.strftime(".tart-guest-%Y%m%d-%H%M%S")
    taken = [name for name in names if now in name]
    number, ending = 1, now
    while any(name.endswith(ending) or f"{ending}/" in name for name in taken):
        number += 1
        ending = f"{now}-{number}"
    return ending


def write_orders(folder: Path, plan: Plan, outcome: Outcome, out: BinaryIO, *, send: bool) -> None:
    """What the guest has to do: note what was agreed on, and with `send` take what the host has changed.

    Raises FileTrouble, SyncFailed, BrokenPipeError.
    """
    guest = {path: entry for path, _, entry in outcome.agreed}
    with opened(folder) as top:
        for path, host, entry in outcome.agreed:
            tree_lines.write_line(out, ["agree", path, host, entry])
        if send:
            for path in [*plan.paths(Step.SEND), *(path for path, _ in outcome.conflicts)]:
                expected = guest.get(path, plan.known.get(path, NOTHING).guest)
                outcome.sent += _order(top, path, expected, plan, outcome, out)
        tree_lines.write_line(out, tree_lines.END)
        out.flush()


def _order(top: int, path: str, expected: Entry | None, plan: Plan, outcome: Outcome, out: BinaryIO) -> bool:
    host = plan.host.get(path)
    try:
        if host is None:
            tree_lines.write_line(out, ["agree", path, None, None] if expected is None else ["delete", path, expected])
        elif host.kind == "f":
            tree_lines.write_file(top, path, out, ["put", path, expected])
        else:
            tree_lines.write_line(out, ["put", path, expected, host])
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        outcome.left.append(path)
        return False
    return True
