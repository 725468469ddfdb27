"""A vsock device that comes and goes in a real machine, and who carries it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from booted import Booted, booted, in_guest
from machines import text_in
from tartlet.guest.service import vsock_agent
from tartlet.guest.service.vsock_agent import PORT, VsockAgent
from tartlet.hypervisor import plug, state_file
from tartlet.hypervisor.devices import Slot
from tartlet.hypervisor.plug import StillPlugged
from tartlet.hypervisor.qmp import CommandFailed, RunState
from tartlet.vsock import slot
from tartlet.vsock.slot import CannotPlug, VsockSlot, kernel_lacks

pytestmark = pytest.mark.anyio

DRIVER = "modprobe vmw_vsock_virtio_transport"


@asynccontextmanager
async def machine(folder: Path, *, shared: bool = True) -> AsyncGenerator[tuple[Booted, VsockSlot]]:
    """The tiny guest with an empty place, which is empty again at the end."""
    async with booted(folder, more=(Slot(),)) as vm:
        place = VsockSlot(vm.monitor, folder / "qemu.log", shared_memory=shared)
        yield vm, place
        await place.close()


async def refused(place: VsockSlot) -> None:
    """Nobody listens, which the guest says itself."""
    with pytest.raises(ConnectionRefusedError):
        await place.connect(PORT, 20, 20)


async def test_it_comes_goes_and_comes_again_and_the_machine_can_be_saved(tmp_path: Path) -> None:
    async with machine(tmp_path) as (vm, place):
        await vm.monitor.cont()
        await text_in(tmp_path / "serial.log", "READY")
        await in_guest(vm.agent, DRIVER)
        await refused(place)
        await refused(place)
        assert place.is_plugged
        assert "0x1053" in await in_guest(vm.agent, "cat /sys/bus/pci/devices/*/device")
        async with place.kept_empty():
            assert "0x1053" not in await in_guest(vm.agent, "cat /sys/bus/pci/devices/*/device")
            await vm.monitor.stop()
            (tmp_path / "state").touch()
            with (tmp_path / "state").open("r+b") as file:
                await state_file.stream(vm.monitor, file.fileno(), with_memory=False)
            await state_file.go_on(vm.monitor, RunState.RUNNING)
        await refused(place)
        assert "0x1053" in await in_guest(vm.agent, "cat /sys/bus/pci/devices/*/device")


async def test_a_guest_is_not_silent_while_the_device_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once the device may come, and then says itself that nobody listens."""
    monkeypatch.setattr(vsock_agent, "_FIRST_ANSWER", 0.5)
    async with machine(tmp_path) as (vm, place), anyio.create_task_group() as tasks:
        await vm.monitor.cont()
        await text_in(tmp_path / "serial.log", "READY")
        await in_guest(vm.agent, DRIVER)
        agent = VsockAgent(place, 0)
        tasks.start_soon(agent.run)
        async with place.kept_empty():
            tasks.start_soon(agent.found)
            await anyio.sleep(1.5)
            assert not agent.missing
        monkeypatch.setattr(vsock_agent, "_FIRST_ANSWER", 20)
        with anyio.fail_after(20):
            assert not await agent.found()
        tasks.cancel_scope.cancel()


async def test_a_guest_that_cannot_let_go_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is still in its firmware; later it can."""
    monkeypatch.setattr(plug, "LETTING_GO", 0.5)
    async with machine(tmp_path) as (vm, place):
        await vm.monitor.cont()
        with pytest.raises(TimeoutError):
            await place.connect(PORT, 20, 0.5)
        with pytest.raises(StillPlugged, match="does not let go of its vsock device"):
            await place.empty()
        await text_in(tmp_path / "serial.log", "READY")
        monkeypatch.setattr(plug, "LETTING_GO", 15)
        await place.empty()
        assert not place.is_plugged


async def test_what_the_kernel_refuses_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "KERNEL", Path("/dev/null"))
    assert kernel_lacks() is None
    async with machine(tmp_path) as (_, place):
        for _ in range(2):
            with pytest.raises(CommandFailed, match=r"device_add.*vhost"):
                await place.connect(PORT, 20, 20)
            assert not place.is_plugged


async def test_without_shared_memory_only_the_kernel_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "KERNEL", tmp_path / "none")
    async with machine(tmp_path, shared=False) as (_, place):
        assert not place.possible
        with pytest.raises(CannotPlug, match=r"it is a fork, and .*none does not exist"):
            await place.connect(PORT, 20, 20)


@pytest.mark.skipif(kernel_lacks() is not None, reason=f"the kernel carries no vsock devices here: {kernel_lacks()}")
async def test_the_kernel_carries_it(tmp_path: Path) -> None:
    async with machine(tmp_path, shared=False) as (vm, place):
        await vm.monitor.cont()
        await text_in(tmp_path / "serial.log", "READY")
        await in_guest(vm.agent, DRIVER)
        with pytest.raises(OSError, match=r"reset|refused"):
            await place.connect(PORT, 20, 20)
        assert str(slot.KERNEL) in place.transport
        await place.empty()
