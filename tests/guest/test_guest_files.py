"""Files of a guest as library functions, by either agent; the guest is this host, in other folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from guest_channels import heard, served
from host_agents import agent_process, agents_served
from machines import MAC, mini_machine, text_in
from scripted_qga import scripted_qga
from tartlet.guest.client.copying import copy_from
from tartlet.guest.client.file_status import list_folder, stat_path
from tartlet.guest.client.files import TooLarge, read_file, read_stream, read_tree, write_file, write_stream, write_tree
from tartlet.guest.client.path_errors import GuestPathForbidden, GuestPathIsFolder, GuestPathMissing, GuestPathTrouble
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentFailed
from tartlet.guest.rpc.channel import GuestChannel, connect

pytestmark = pytest.mark.anyio


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("size", [0, 1, 300_000, 20 << 20])
async def test_a_file_is_written_and_read(channel: GuestChannel, inside: Path, size: int) -> None:
    data, path = os.urandom(size), inside / "-n ä\n"
    await write_file(channel, str(path), data)
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert await read_file(channel, str(path)) == data
    await write_file(channel, str(path), b"new", mode=0o4750)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o4750
    assert os.listdir(inside) == [path.name]


async def test_no_more_is_read_than_was_asked_for(channel: GuestChannel, inside: Path) -> None:
    (inside / "data").write_bytes(b"12345")
    assert await read_file(channel, str(inside / "data"), limit=5) == b"12345"
    with pytest.raises(TooLarge, match="it holds more than 4 bytes"):
        await read_file(channel, str(inside / "data"), limit=4)


async def test_a_link_leads_to_the_file_that_is_written(channel: GuestChannel, inside: Path) -> None:
    (inside / "folder").mkdir()
    (inside / "folder" / "real").write_text("old")
    (inside / "link").symlink_to("folder/real")
    await write_file(channel, str(inside / "link"), b"new")
    assert (inside / "link").is_symlink()
    assert (inside / "folder" / "real").read_text() == "new"


async def test_a_stream_that_fails_leaves_the_old_file_alone(channel: GuestChannel, inside: Path) -> None:
    (inside / "data").write_text("old")

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"x" * 1_000_000
        await anyio.sleep(0.1)
        raise RuntimeError("the reader's own trouble")

    with pytest.raises(RuntimeError, match="own trouble"):
        await write_stream(channel, str(inside / "data"), pieces())
    with pytest.raises(GuestPathTrouble):
        await write_stream(channel, str(inside / "data"), pieces_of(b"short"), size=6)
    assert (inside / "data").read_text() == "old"
    assert os.listdir(inside) == ["data"]


async def test_a_file_can_be_read_as_it_comes(channel: GuestChannel, inside: Path) -> None:
    data = os.urandom(3_000_000)
    (inside / "data").write_bytes(data)
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    await read_stream(channel, str(inside / "data"), keep)
    assert b"".join(pieces) == data
    assert len(pieces) > 10


async def test_what_a_path_is(channel: GuestChannel, inside: Path) -> None:
    (inside / "data").write_bytes(b"12345")
    os.utime(inside / "data", ns=(0, 1_700_000_000_123_456_789))
    (inside / "link").symlink_to("data")
    found = await stat_path(channel, str(inside / "link"))
    real = (inside / "data").stat()
    assert (found.name, found.size, found.mode) == ("link", 5, real.st_mode)
    assert (found.uid, found.gid, found.mtime_ns) == (real.st_uid, real.st_gid, real.st_mtime_ns)
    assert found.is_file
    assert (await stat_path(channel, str(inside / "link"), follow_links=False)).is_link
    assert (await stat_path(channel, "/")).is_folder


async def test_what_is_in_a_folder(channel: GuestChannel, inside: Path) -> None:
    assert await list_folder(channel, str(inside)) == []
    names = ["-a", ".hidden", "ä b", "line\nbreak", "sub", "z", os.fsdecode(b"\xff")]
    for name in names:
        (inside / name).touch()
    (inside / "sub").unlink()
    (inside / "sub").mkdir()
    (inside / "sub" / "deeper").touch()
    found = await list_folder(channel, str(inside))
    assert [one.name for one in found] == sorted(names)
    assert [one.name for one in found if one.is_folder] == ["sub"]


async def test_trees_go_as_streams(channel: GuestChannel, inside: Path) -> None:
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "b" / "data").write_bytes(os.urandom(18 << 20))
    packed = bytearray()

    async def keep(piece: bytes) -> None:
        packed.extend(piece)

    await read_tree(channel, str(inside), "a", keep)
    (inside / "to").mkdir()
    await write_tree(channel, str(inside / "to"), pieces_of(bytes(packed)))
    assert (inside / "to" / "a" / "b" / "data").read_bytes() == (inside / "a" / "b" / "data").read_bytes()


async def test_errors_are_those_of_the_guest(channel: GuestChannel, inside: Path) -> None:
    missing, file = str(inside / "no" / "file"), inside / "file"
    file.touch()
    for number, kind, work in (
        (errno.ENOENT, GuestPathMissing, read_file(channel, missing)),
        (errno.ENOENT, GuestPathMissing, write_file(channel, missing, b"x")),
        (errno.ENOENT, GuestPathMissing, stat_path(channel, missing)),
        (errno.ENOENT, GuestPathMissing, list_folder(channel, missing)),
        (errno.ENOTDIR, GuestPathMissing, list_folder(channel, str(file))),
        (errno.EISDIR, GuestPathIsFolder, read_file(channel, str(inside))),
        (errno.EISDIR, GuestPathIsFolder, write_file(channel, str(inside), b"x")),
        (errno.ENOENT, GuestPathMissing, read_tree(channel, str(inside), "nothing", nothing)),
    ):
        with pytest.raises(kind) as raised:
            await work
        assert raised.value.errno == number
        assert raised.value.path in (missing, str(file), str(inside))
    assert os.listdir(inside) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which agents have in a guest")
async def test_rights_are_those_of_the_user(inside: Path, tmp_path: Path) -> None:
    (inside / "secret").write_text("x")
    (inside / "secret").chmod(0o600)
    with agent_process() as (port, _):
        async with agents_served(tmp_path, port), connect(tmp_path, patience=10) as channel:
            for work in (
                read_file(channel, "/proc/1/environ", user="nobody"),
                write_file(channel, "/etc/tart-test", b"x", user="nobody"),
                list_folder(channel, "/root", user="nobody"),
            ):
                with pytest.raises(GuestPathForbidden, match="Permission denied") as raised:
                    await work
                assert raised.value.hint is not None
            with pytest.raises(AgentFailed, match="no user nemo"):
                await read_file(channel, "/etc/hostname", user="nemo")


async def test_the_other_agent_leaves_nothing_behind(inside: Path, tmp_path: Path) -> None:
    before = set(os.listdir("/var/tmp"))
    with scripted_qga() as (port, agent):
        async with served(tmp_path, port, MAC), connect(tmp_path, patience=10) as channel:
            os.mkfifo(inside / "silent")
            with anyio.move_on_after(0.5) as waited:
                await read_stream(channel, str(inside / "silent"), nothing)
            assert waited.cancelled_caught
            with pytest.raises(AgentFailed, match="nowhere: not found"):
                await channel.execute(Command(name="nowhere", bulky=True), nothing, nothing)
            (inside / "data").write_text("x")
            assert await read_file(channel, str(inside / "data")) == b"x"
            for _ in range(200):
                if not set(os.listdir("/var/tmp")) - before and not agent.running:
                    break
                await anyio.sleep(0.05)
            assert set(os.listdir("/var/tmp")) - before == set()
            assert not agent.running


async def test_a_real_guest_with_the_other_agent(tmp_path: Path) -> None:
    data = os.urandom(17 << 20)
    with mini_machine(tmp_path) as machine:
        await text_in(machine.serial_log, "READY")
        async with served(tmp_path, machine.agent, MAC), connect(tmp_path) as channel:
            await write_file(channel, "data", data, mode=0o600)
            found = await stat_path(channel, "data")
            assert (found.size, found.uid, stat.S_IMODE(found.mode)) == (len(data), 1000, 0o600)
            assert [one.name for one in await list_folder(channel, ".")] == ["data"]
            with pytest.raises(GuestPathMissing):
                await read_file(channel, "nothing")
            await write_file(channel, "/secret", b"x", mode=0o600, user="root")
            with pytest.raises(GuestPathForbidden):
                await read_file(channel, "/secret")
            await copy_from(channel, "data", tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == data
            said = await heard(channel, "sh", "-c", "ls -A /tmp /var/tmp | grep tart")
            assert said.out == b""


async def pieces_of(data: bytes) -> AsyncGenerator[bytes]:
    yield data


async def nothing(_: bytes) -> None:
    pass
