"""Files and trees into and out of a guest, by either agent; the guest is this host, in other folders."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from host_agents import agent_process, agents_served
from tartlet.errors import FileTrouble
from tartlet.guest.client.copying import CopyFailed, copy_from, copy_into
from tartlet.guest.errors import AgentUnavailable
from tartlet.guest.rpc.channel import GuestChannel, connect

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "folder" / "empty").mkdir(parents=True)
    (tree / "folder" / "data").write_bytes(os.urandom(1_000_000))
    (tree / "-name with ä").write_text("x")
    (tree / "link").symlink_to("folder/data")
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o755)
    return tree


def same(one: Path, other: Path) -> bool:
    def told(top: Path) -> list[tuple[str, int, str, bytes]]:
        return [
            (
                str(path.relative_to(top)),
                path.lstat().st_mode,
                os.readlink(path) if path.is_symlink() else "",
                path.read_bytes() if path.is_file() else b"",
            )
            for path in sorted(top.rglob("*"))
        ]

    return told(one) == told(other)


async def test_a_tree_goes_in_and_comes_back(channel: GuestChannel, tree: Path, tmp_path: Path) -> None:
    inside, back = tmp_path / "inside", tmp_path / "back"
    inside.mkdir()
    back.mkdir()
    await copy_into(channel, tree, str(inside))
    assert same(tree, inside / "tree")
    await copy_into(channel, tree, str(inside / "other"))
    assert same(tree, inside / "other")
    await copy_from(channel, str(inside / "other"), back)
    assert same(tree, back / "other")
    await copy_from(channel, f"{inside}/other/", back / "named")
    assert same(tree, back / "named")
    await copy_from(channel, f"{inside}/other/.", back / "content")
    assert same(tree, back / "content")


async def test_a_file_goes_in_and_comes_back(channel: GuestChannel, tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "a name, with 'quotes'"
    await copy_into(channel, tree / "folder" / "data", str(target))
    assert target.read_bytes() == (tree / "folder" / "data").read_bytes()
    await copy_into(channel, tree / "script", str(target))
    assert target.read_text() == "#!/bin/sh\n"
    assert target.stat().st_mode & 0o777 == 0o755
    await copy_from(channel, str(target), tmp_path / "back")
    assert (tmp_path / "back").read_text() == "#!/bin/sh\n"
    await copy_from(channel, str(tree / "link"), tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "folder/data"


async def test_what_cannot_be_copied_is_told(channel: GuestChannel, tree: Path, tmp_path: Path) -> None:
    for source, target, reason in (
        (tmp_path / "nothing", str(tmp_path), 'there is no .*/nothing" on this host'),
        (tree, str(tree / "script"), "script in the guest is a file"),
        (tree / "script", str(tmp_path / "no" / "folder"), "there is no folder .*/no in the guest"),
        (tree / "script", f"{tmp_path}/new/", "there is no folder .*/new/ in the guest"),
    ):
        with pytest.raises(CopyFailed, match=reason):
            await copy_into(channel, source, target)
    with pytest.raises(CopyFailed, match=r'there is no .*/nothing" in the guest'):
        await copy_from(channel, str(tmp_path / "nothing"), tmp_path)
    with pytest.raises(CopyFailed, match=r"there is no folder .*/no on this host"):
        await copy_from(channel, str(tree), tmp_path / "no" / "folder")
    with pytest.raises(FileTrouble, match="cannot write"):
        await copy_from(channel, str(tree), tree / "script")
    with pytest.raises(CopyFailed, match=r"/proc/sys/kernel in the guest: tar: .*Cannot open"):
        await copy_into(channel, tree / "script", "/proc/sys/kernel")


async def test_no_agent_sets_a_limit(channel: GuestChannel, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    (tmp_path / "large").write_bytes(data)
    await copy_into(channel, tmp_path / "large", str(tmp_path / "inside"))
    await copy_from(channel, str(tmp_path / "inside"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


async def test_an_agent_that_goes_away_in_the_middle_is_told(tmp_path: Path) -> None:
    (tmp_path / "zeros").touch()
    os.truncate(tmp_path / "zeros", 4 << 30)
    with agent_process() as (port, _):
        async with agents_served(tmp_path, port) as agents, connect(tmp_path, patience=10) as channel:

            async def leave() -> None:
                await anyio.sleep(1)
                agents.own.port_closed()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(leave)
                with pytest.raises(AgentUnavailable, match="gone away"):
                    await copy_from(channel, str(tmp_path / "zeros"), tmp_path / "back")
