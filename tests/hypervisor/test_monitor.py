"""The monitor of a real QEMU, and a guest with every device."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import anyio
import pytest

from booted import booted, in_guest
from machines import text_in
from tartlet.hypervisor import process, qemu, qmp
from tartlet.hypervisor.devices import GUEST_AGENT_PORT
from tartlet.hypervisor.machine_news import PortChanged, Restarted, ShutDown, machine_news
from tartlet.hypervisor.qmp import CommandFailed, MonitorUnreachable, RunState

pytestmark = pytest.mark.anyio


async def test_a_guest_with_every_device_boots_speaks_and_shuts_down_at_the_power_button(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 150) / ("b,c " * 37)  # longer than any address of a Unix socket, and with commas
    home.mkdir(parents=True)
    async with booted(home) as vm:
        assert await vm.monitor.status() is RunState.RUNNING
        with machine_news(vm.monitor) as news:
            await text_in(home / "serial.log", "READY")
            assert await anext(news) == PortChanged(GUEST_AGENT_PORT, is_open=True)
            assert await vm.monitor.port_is_open("port1")
            terminal = await vm.monitor.terminal_of("console")
            assert stat.S_ISCHR(os.stat(terminal).st_mode)
            await in_guest(vm.agent, "modprobe evdev; pidof acpid || acpid -l /dev/null -c /etc/acpi")
            await vm.monitor.powerdown()
            with anyio.fail_after(20):
                rest = [told async for told in news]
        assert [told for told in rest if isinstance(told, ShutDown)] == [ShutDown.BY_GUEST]
        with anyio.fail_after(10):
            assert await vm.process.wait() == 0
        with pytest.raises(MonitorUnreachable):
            await vm.monitor.status()


async def test_commands_and_refusals(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        await vm.monitor.stop()
        assert await vm.monitor.status() is RunState.PAUSED
        await vm.monitor.cont()
        assert await vm.monitor.status() is RunState.RUNNING
        with pytest.raises(CommandFailed, match="no VNC server"):
            await vm.monitor.vnc_port()
        with pytest.raises(CommandFailed, match="no character device nothing"):
            await vm.monitor.port_is_open("nothing")
        with pytest.raises(CommandFailed, match="migrate"):
            await vm.monitor.migrate("fd:nothing")
        await vm.monitor.quit()
        with anyio.fail_after(10):
            assert await vm.process.wait() == 0


async def test_a_restart_is_told_and_the_end_that_was_ordered(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        with machine_news(vm.monitor) as news, anyio.fail_after(20):
            await vm.monitor.reset()
            await vm.monitor.quit()
            told = [one async for one in news]
        assert Restarted() in told
        assert told[-1] is ShutDown.BY_WINDOW


async def test_events_end_when_qemu_is_killed(tmp_path: Path) -> None:
    async with booted(tmp_path) as vm:
        with vm.monitor.listening("SHUTDOWN") as events, anyio.fail_after(10):
            vm.process.send(signal.SIGKILL)
            assert [event async for event in events] == []
        assert await vm.process.wait() == -signal.SIGKILL
        assert "SIGKILL" in str(vm.process.crash())


async def test_a_qemu_that_refuses_its_words_tells_why(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    words = [qemu.find("amd64"), "-device", "no-such-device", "-chardev", f"socket,id=m,fd={theirs.fileno()}"]
    with ours, theirs:
        async with process.spawned(words, log_file=tmp_path / "log", pass_fds=[theirs.fileno()]) as running:
            theirs.close()
            with pytest.raises(MonitorUnreachable):
                async with qmp.connected(ours):
                    pass
            assert await running.wait() == 1
            assert "no-such-device" in str(running.crash())


async def test_silence_is_not_waited_for_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(MonitorUnreachable, match="no greeting"):
        async with qmp.connected(ours, handshake=0.2):
            pass


@pytest.mark.parametrize("greeting", [b"garbage\n", b"{}\n", b"\xff" * 100 + b"\n", b'{"QMP": 1}\n'])
async def test_a_peer_that_is_no_qemu_is_refused(greeting: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(greeting)
        with pytest.raises(MonitorUnreachable):
            async with qmp.connected(ours, handshake=5):
                pass


async def test_nothing_is_left_open(tmp_path: Path) -> None:
    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with booted(tmp_path):  # what the first one loads stays
        pass
    before = open_now()
    async with booted(tmp_path):
        assert open_now() > before
    assert open_now() == before
