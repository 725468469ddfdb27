"""When synchronised folders are copied and brought back during a run; the guest is our agent on this host."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import host_agents
from guest_channels import heard
from host_agents import agent_process, agents_served
from tartlet.guest.rpc.channel import connect
from tartlet.guest.service.vsock_agent import VsockAgent
from tartlet.share.arguments import Synced
from tartlet.vm.running import sync
from tartlet.vm.running.folder_sync import FolderSync, NothingToSync
from vsock_agents import Wire, vsock_agent

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which agents are in a guest"),
]


@dataclass(frozen=True)
class Run:
    """A run with one folder, copied in."""

    sync: FolderSync
    agent: subprocess.Popen[bytes]
    said: list[str]
    host: Path
    guest: Path


@asynccontextmanager
async def begun(place: Path) -> AsyncGenerator[Run]:
    (place / "host").mkdir()
    (place / "host" / "file").write_text("from the host")
    said: list[str] = []
    folder = Synced(path=str(place / "host"), guest_path=str(place / "guest"), read_only=False)
    with agent_process() as (port, agent):
        async with agents_served(place, port) as agents, anyio.create_task_group() as tasks:
            sync = FolderSync([folder], place, agents, said.append)
            tasks.start_soon(sync.run)
            await sync.settled()
            yield Run(sync, agent, said, place / "host", place / "guest")
            tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "STATES", str(tmp_path / "states"))


async def test_a_guest_that_stops_by_itself_brings_its_changes(tmp_path: Path) -> None:
    async with begun(tmp_path) as run:
        assert run.said == [f"{run.host} -> {run.guest}: 1 copied into the guest."]
        (run.guest / "file").write_text("from the guest")
        async with connect(tmp_path) as channel:
            await heard(channel, "true")  # the agent reads in order: it is held by now
        run.agent.terminate()
        assert await anyio.to_thread.run_sync(run.agent.wait, 20) == 0
        assert (run.host / "file").read_text() == "from the guest"
        assert run.said[1:] == [f"{run.guest} -> {run.host}: 1 brought back from the guest."]


async def test_where_only_another_agent_is_it_is_told_that_changes_come_later(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    folder = Synced(path=str(tmp_path / "host"), guest_path=str(tmp_path / "guest"), read_only=False)
    said: list[str] = []
    with vsock_agent(tmp_path / "agent.sock"), socket.socket(socket.AF_UNIX) as nobody:
        vsock = VsockAgent(Wire(tmp_path / "agent.sock"), 0)
        async with agents_served(tmp_path, nobody, vsock) as agents, anyio.create_task_group() as tasks:
            tasks.start_soon(FolderSync([folder], tmp_path, agents, said.append).run)
            with anyio.fail_after(20):
                while not said:  # noqa: ASYNC110 - told after the copying
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
    assert "Only Tartlet's own agent tells when the guest stops by itself" in said[0]


async def test_at_the_end_nothing_goes_in(tmp_path: Path) -> None:
    async with begun(tmp_path) as run:
        (run.host / "late").touch()
        (run.guest / "made").touch()
        await run.sync.bring_back()
        assert sorted(os.listdir(run.guest)) == ["file", "made"]
        assert sorted(os.listdir(run.host)) == ["file", "late", "made"]
        (done,) = await run.sync.now()
        assert (done.sent, done.brought, done.conflicts, done.left) == (1, 0, (), ())


async def test_what_goes_wrong_is_told_and_each_side_keeps_its_own(tmp_path: Path) -> None:
    async with begun(tmp_path) as run:
        (run.host / "file").write_text("host's")
        (run.guest / "file").write_text("guest's")
        await run.sync.bring_back()
        assert run.said[1].startswith(f"file in {run.host} was changed on both sides: the guest's is file.tart-guest-")
        (run.guest / "later").touch()
        run.host.rename(tmp_path / "moved")
        await run.sync.bring_back()
        assert run.said[2] == (
            f"cannot synchronise {run.host}: No such file or directory. "
            f"Changes wait at {run.guest} in the guest for its next start."
        )
        assert sorted(os.listdir(run.guest)) == ["file", "later"]


async def test_an_agent_that_knows_no_waiting_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tmp_path / "older.py"
    older.write_text(host_agents.AGENT.read_text().replace('"hold"', '"unknown"'))
    monkeypatch.setattr(host_agents, "AGENT", older)
    async with begun(tmp_path) as run:
        with anyio.fail_after(20):
            while len(run.said) < 2:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.05)
        assert "agent is too old for this): its changes then come back at the next start" in run.said[1]


async def test_a_run_without_folders_has_nothing_to_do(tmp_path: Path) -> None:
    with agent_process() as (port, _):
        async with agents_served(tmp_path, port) as agents:
            sync = FolderSync([], tmp_path, agents, print)
            await sync.run()
            await sync.settled()
            await sync.bring_back()
            with pytest.raises(NothingToSync):
                await sync.now()
