"""A machine is saved to one file and goes on from it in another QEMU; what does not fit is refused and kept."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from booted import Booted, booted, in_guest
from tartlet.errors import FileTrouble
from tartlet.hypervisor import qemu, state_file
from tartlet.hypervisor.devices import GUEST_AGENT_PORT, Port, Ports
from tartlet.hypervisor.machine import Machine
from tartlet.hypervisor.qmp import RunState
from tartlet.hypervisor.state_file import (
    STREAM_OFFSET,
    Fingerprint,
    RestoreFailed,
    SaveFailed,
    StateRefused,
    open_for_resume,
)

pytestmark = pytest.mark.anyio

OF = Fingerprint(qemu="7.2", machine="pc-q35-7.2", shape={"memory": "256 bytes", "CPUs": "1", "devices": "gpu; disk 2"})


def fingerprint_of(machine: Machine) -> Fingerprint:
    return state_file.fingerprint(machine, qemu.version(qemu.find("amd64")), disk_size=1000, mac="52:54:00:12:34:56")


async def agent_is_up(vm: Booted) -> None:
    with anyio.fail_after(60):
        with vm.monitor.listening("VSERPORT_CHANGE") as events:
            if not await vm.monitor.port_is_open("port1"):
                await events.next()


async def test_a_guest_goes_on_where_it_was_in_another_qemu(tmp_path: Path) -> None:
    state = tmp_path / "state.vzvmsave"
    async with booted(tmp_path) as vm:
        await agent_is_up(vm)
        await in_guest(vm.agent, "echo remembered > /run/note; sleep 1000 > /dev/null 2>&1 & echo $! > /run/child")
        before = await in_guest(vm.agent, "cat /run/child /proc/sys/kernel/random/boot_id")
        size = await state_file.save(vm.monitor, state, fingerprint_of(vm.machine))
        assert await vm.monitor.status() is RunState.POSTMIGRATE
        await vm.monitor.quit()
    assert size == state.stat().st_size > 4_000_000
    async with booted(tmp_path, restored=True) as vm:
        saved = open_for_resume(state, fingerprint_of(vm.machine))
        try:
            assert saved.size == size - STREAM_OFFSET
            await state_file.restore(vm.monitor, saved)
        finally:
            os.close(saved.descriptor)
        assert await vm.monitor.status() is RunState.PAUSED
        await vm.monitor.cont()
        await agent_is_up(vm)
        assert await in_guest(vm.agent, "cat /run/note") == "remembered\n"
        assert await in_guest(vm.agent, "cat /run/child /proc/sys/kernel/random/boot_id") == before
        assert "sleep" in await in_guest(vm.agent, "cat /proc/$(cat /run/child)/comm")


async def test_a_file_that_cannot_hold_the_state_leaves_the_machine_running(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        (tmp_path / "there").touch()
        with pytest.raises(SaveFailed, match="File exists"):
            await state_file.save(vm.monitor, tmp_path / "there", OF)
        assert await vm.monitor.status() is RunState.RUNNING


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.needs_root
async def test_a_full_disk_leaves_the_machine_running_and_no_file(tmp_path: Path, small: Path) -> None:
    async with booted(tmp_path) as vm:
        await anyio.sleep(1)  # the firmware fills some memory
        with pytest.raises(SaveFailed, match=r"goes on running.*space") as failed:
            await state_file.save(vm.monitor, small / "state", fingerprint_of(vm.machine))
        assert "free some space" in (failed.value.hint or "")
        assert await vm.monitor.status() is RunState.RUNNING
        assert os.listdir(small) == []
        assert await state_file.save(vm.monitor, tmp_path / "state", fingerprint_of(vm.machine)) > STREAM_OFFSET


@dataclass(frozen=True)
class MediaPlayer:
    """A device of QEMU that cannot be saved."""

    folder: Path

    def words(self) -> list[str]:
        return ["-device", f"usb-mtp,bus=usb.0,port=3,rootdir={self.folder}"]

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def shape(self) -> str:
        return "media player"


async def test_a_device_that_cannot_be_saved_leaves_the_machine_running(tmp_path: Path) -> None:
    async with booted(tmp_path, more=(MediaPlayer(tmp_path),)) as vm:
        with pytest.raises(SaveFailed, match="usb-mtp"):
            await state_file.save(vm.monitor, tmp_path / "state", OF)
        assert await vm.monitor.status() is RunState.RUNNING
        assert "state" not in os.listdir(tmp_path)


async def test_a_save_that_is_given_up_leaves_the_machine_running(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        await anyio.sleep(1)
        given_up = 0
        for step in range(200):
            with anyio.move_on_after(step * 0.002) as scope:
                await state_file.save(vm.monitor, tmp_path / "state", OF)
            if not scope.cancelled_caught:
                break
            given_up += 1
            assert await vm.monitor.status() is RunState.RUNNING
            assert "state" not in os.listdir(tmp_path)
        assert given_up > 2
        assert await vm.monitor.status() is RunState.POSTMIGRATE
        assert "state" in os.listdir(tmp_path)


async def test_a_damaged_stream_is_told_by_qemu(tmp_path: Path) -> None:
    state = written(tmp_path / "state", stream=b"not a machine" * 1000)
    async with booted(tmp_path, restored=True) as vm:
        saved = open_for_resume(state, OF)
        with pytest.raises(RestoreFailed):
            await state_file.restore(vm.monitor, saved)
        os.close(saved.descriptor)
    assert state.exists()


def written(path: Path, of: Fingerprint = OF, stream: bytes = b"stream", version: int = 1) -> Path:
    told = {
        "qemu": of.qemu,
        "machine": of.machine,
        "shape": dict(of.shape),
        "stream": len(stream),
        "saved": 1_700_000_000.5,
    }
    text = json.dumps(told).encode()
    head = struct.pack("<16sII", b"TARTLET STATE\0\0\0", version, len(text)) + text
    path.write_bytes(head.ljust(STREAM_OFFSET, b"\0") + stream)
    return path


def test_a_state_that_fits_is_opened_at_its_stream(tmp_path: Path) -> None:
    saved = open_for_resume(written(tmp_path / "state"), OF)
    try:
        assert os.read(saved.descriptor, 100) == b"stream"
        assert (saved.size, saved.saved) == (6, 1_700_000_000.5)
    finally:
        os.close(saved.descriptor)


def cut(path: Path) -> None:
    os.truncate(path, STREAM_OFFSET + 3)


def no_header(path: Path) -> None:
    path.write_bytes(bytes(STREAM_OFFSET) + b"stream")


def apples(path: Path) -> None:
    path.write_bytes(b"bplist00" + bytes(9000))


def newer(path: Path) -> None:
    written(path, version=2)


def broken_json(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(24)
        file.write(b"}}")


def endless_json(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff\xff\xff")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "cut short"),
        (no_header, "not whole"),
        (empty, "not whole"),
        (apples, "not written by this program"),
        (newer, "version 2"),
        (broken_json, "damaged"),
        (endless_json, "damaged"),
    ],
)
def test_what_is_not_a_whole_state_of_ours_is_refused_and_kept(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    path = written(tmp_path / "state")
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StateRefused, match=reason) as refusal:
        open_for_resume(path, OF)
    assert refusal.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (replace(OF, qemu="8.2"), "QEMU 7.2 saved it and this is QEMU 8.2"),
        (replace(OF, machine="virt-7.2"), "pc-q35-7.2"),
        (replace(OF, shape={**OF.shape, "memory": "512 bytes"}), "memory changed.*256 bytes then, 512 bytes now"),
        (replace(OF, shape={"memory": "256 bytes", "devices": "gpu; disk 2"}), "CPUs changed.*1 then, unset now"),
        (replace(OF, shape={**OF.shape, "sound": "on"}), "sound changed.*unset then, on now"),
        (replace(OF, shape={**OF.shape, "devices": "gpu; disk 1"}), "devices changed.*disk 2 then, disk 1 now"),
        (replace(OF, shape={**OF.shape, "devices": "gpu"}), "devices changed.*disk 2 then, nothing more now"),
    ],
)
def test_a_changed_machine_is_refused_with_the_difference(tmp_path: Path, now: Fingerprint, reason: str) -> None:
    path = written(tmp_path / "state")
    with pytest.raises(StateRefused, match=reason):
        open_for_resume(path, now)
    assert path.exists()


def test_a_missing_state_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="saved state"):
        open_for_resume(tmp_path / "none", OF)


def test_paths_and_descriptors_are_no_part_of_the_shape() -> None:
    one = Ports(ports=(Port(name=GUEST_AGENT_PORT, descriptor=5),), console="pty")
    other = Ports(ports=(Port(name=GUEST_AGENT_PORT, descriptor=9),), console="serial,path=/dev/pts/3")
    assert one.shape() == other.shape()
