"""`--dir=…:sync`: folders of this host that are copied into a guest, and the guest's changes back, while it runs."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from tartlet.errors import UserError
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed, escaped
from tartlet.guest.rpc.channel import GuestChannel, Writer, connect
from tartlet.host.pipes import drained, joined, pouring, raise_first
from tartlet.share import sync_host
from tartlet.share.arguments import Synced
from tartlet.share.sync_host import Outcome, SyncFailed
from tartlet.share.sync_plan import Known, Plan, Step, planned
from tartlet.share.sync_program import STATES, sync_program
from tartlet.share.tree import Entry, Refused
from tartlet.share.tree_lines import read_lines, write_line

_LARGEST_ANSWER = 1 << 30
_LONGEST_COMPLAINT = 2000
_PIECE = 256 << 10


async def synchronised(vm_folder: Path, folder: Synced, *, send: bool, patience: float) -> Outcome:
    """Bring the guest's changes of a folder to this host, and with `send` this host's to the guest.

    Raises SyncFailed, FileTrouble, AgentUnavailable, AgentFailed: then each side has what it had, and what one of them
    has changed is found the next time.
    """
    async with connect(vm_folder, patience) as channel:
        round_ = _Round(channel, folder)
        host = await anyio.to_thread.run_sync(sync_host.scanned, Path(folder.path))
        plan = await round_.looked(host)
        outcome = Outcome() if folder.read_only else await round_.brought(plan)
        if outcome.agreed or (send and (plan.steps or not plan.known)):
            await round_.ordered(plan, outcome, send=send)
        return outcome


class _Round:
    def __init__(self, channel: GuestChannel, folder: Synced) -> None:
        self._channel, self._folder = channel, folder

    async def looked(self, host: dict[str, Entry]) -> Plan:
        """What there is to do. Raises SyncFailed for a copy that holds somebody else's changes."""
        said = io.BytesIO()
        await self._run("tell", stdout=self._keeping(said))
        with self._believing_nothing():
            made_of, known = await anyio.to_thread.run_sync(sync_host.told, said)
        plan = planned(host, known, read_only=self._folder.read_only)
        self._check_origin(made_of, known, plan)
        return plan

    def _check_origin(self, made_of: str | None, known: dict[str, Known], plan: Plan) -> None:
        where = f"{self._folder.guest_path} in the guest"
        if made_of is None and known:
            raise SyncFailed(
                f"{where} holds files that did not come from here",
                "move them away in the guest, or give the folder another name: NAME:PATH:sync",
            )
        if made_of not in (None, self._folder.path) and plan.guest_changed and not self._folder.read_only:
            raise SyncFailed(
                f"{where} holds changes that belong to {escaped(made_of or '')} of this or another host",
                "move them away in the guest, or give the folder another name: NAME:PATH:sync",
            )

    async def brought(self, plan: Plan) -> Outcome:
        """What the guest has changed, now on this host."""
        if not plan.paths(Step.BRING, Step.CONTEST, Step.AGREE):
            return Outcome()
        wanted = plan.wanted()
        if not wanted:
            return await anyio.to_thread.run_sync(sync_host.bring, Path(self._folder.path), plan, None)
        outcome = Outcome()
        reading, writing = os.pipe()

        def take() -> None:
            nonlocal outcome
            with open(reading, "rb", buffering=_PIECE) as stream:
                outcome = sync_host.bring(Path(self._folder.path), plan, stream)

        told, ran = await joined(
            partial(self._run, "send", stdin=_lines(wanted), stdout=pouring(writing)), take, writing
        )
        raise_first(ran if isinstance(ran, UserError) else None, told)
        if ran is not None:
            raise SyncFailed(f"{self._folder.path}: the guest sends more than it was asked for") from ran
        return outcome

    async def ordered(self, plan: Plan, outcome: Outcome, *, send: bool) -> None:
        """The guest notes what was agreed on, and takes what this host has changed."""
        reading, writing = os.pipe()
        said = io.BytesIO()

        def give() -> None:
            try:
                with open(writing, "wb", buffering=_PIECE) as stream:
                    sync_host.write_orders(Path(self._folder.path), plan, outcome, stream, send=send)
            except BrokenPipeError:
                return  # the guest's program has ended, and tells why

        told, ran = await joined(
            partial(self._run, "obey", self._folder.path, stdin=drained(reading), stdout=self._keeping(said)),
            give,
            reading,
        )
        raise_first(told, ran)
        with self._believing_nothing():
            missed = [str(line[0]) for line in read_lines(said)]
        outcome.left.extend(path for path in missed if path not in outcome.left)
        outcome.sent = max(0, outcome.sent - len(missed))

    def _keeping(self, said: io.BytesIO) -> Writer:
        """Keep what the guest says, to be read from its beginning; up to a limit."""

        async def keep(data: bytes) -> None:
            end = said.seek(0, os.SEEK_END)
            if end + len(data) > _LARGEST_ANSWER:
                raise SyncFailed(f"{self._folder.guest_path} in the guest holds too much to be synchronised")
            said.write(data)
            said.seek(0)

        return keep

    @contextmanager
    def _believing_nothing(self) -> Generator[None]:
        try:
            yield
        except Refused as exc:
            raise SyncFailed(f"{self._folder.path} was not synchronised: {exc}") from exc

    async def _run(self, what: str, *more: str, stdin: AsyncIterable[bytes] | None = None, stdout: Writer) -> None:
        """The guest's side of it, as root. Raises SyncFailed, AgentUnavailable, AgentFailed."""
        args = ("-I", "-S", "-X", "utf8", "-c", sync_program(), STATES, self._folder.guest_path, what, *more)
        command = Command(name="python3", args=args, user="root", interactive=stdin is not None, bulky=True)
        complaint = bytearray()

        async def complain(data: bytes) -> None:
            if len(complaint) < _LONGEST_COMPLAINT:
                complaint.extend(data)

        try:
            code = await self._channel.execute(command, stdout, complain, stdin)
        except AgentFailed as exc:
            hint = "the guest needs python3 for :sync" if "python3" in str(exc) else exc.hint
            raise SyncFailed(f"{self._folder.path} was not synchronised: {exc}", hint) from exc
        if code != 0:
            lines = complaint.decode(errors="replace").strip().splitlines() or [f"it ended with {code}"]
            raise SyncFailed(f"{self._folder.path} was not synchronised; in the guest: {escaped(lines[-1])}")


async def _lines(paths: Sequence[str]) -> AsyncGenerator[bytes]:
    written = io.BytesIO()
    for path in paths:
        write_line(written, path)
    yield written.getvalue()
