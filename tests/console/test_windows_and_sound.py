"""Which window and which sound a session gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from booted import booted
from tartlet.console import audio, display
from tartlet.hypervisor import qemu
from tartlet.hypervisor.qmp import RunState

BOTH = frozenset({"none", "gtk", "sdl"})
X11 = {"DISPLAY": ":0"}


@pytest.mark.parametrize(
    ("environment", "offered", "options", "words"),
    [
        ({}, BOTH, {}, "none"),
        ({"DISPLAY": ""}, BOTH, {}, "none"),
        (X11, BOTH, {}, "gtk"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, BOTH, {}, "gtk"),
        (X11, BOTH, {"refit": True}, "gtk,zoom-to-fit=off"),
        (X11, BOTH, {"closable": False}, "gtk,window-close=off"),
        (X11, BOTH, {"capture_system_keys": True}, "gtk,grab-on-hover=on"),
        (X11, frozenset({"sdl"}), {"closable": False, "capture_system_keys": True}, "sdl,window-close=off"),
        (X11, frozenset({"none", "curses"}), {}, "none"),
        ({}, frozenset({"cocoa"}), {"platform": "darwin"}, "cocoa"),
        ({}, frozenset({"cocoa"}), {"platform": "darwin", "capture_system_keys": True}, "cocoa,full-grab=on"),
        ({}, frozenset({"none"}), {"platform": "darwin"}, "none"),
    ],
)
def test_windows(
    environment: dict[str, str], offered: frozenset[str], options: dict[str, bool | str], words: str
) -> None:
    chosen = display.choose(environment, offered, **({"platform": "linux"} | options))  # type: ignore[arg-type]
    assert chosen.words == ("-display", words)
    assert chosen.shown is (words != "none")
    assert chosen.shares_clipboard is words.startswith(("gtk", "cocoa"))
    assert chosen.reason.startswith("window: " if chosen.shown else "no window: ")


@pytest.mark.anyio
async def test_a_real_qemu_opens_the_window_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # SDL's own screen that nobody sees
    offered = qemu.displays(qemu.find("amd64"))
    if "sdl" not in offered:
        pytest.skip("needs a QEMU with SDL")
    window = display.choose(X11, {"sdl"}, closable=False, platform="linux")
    async with booted(tmp_path, display=window.words) as vm:
        assert await vm.monitor.status() is RunState.RUNNING


@pytest.mark.parametrize(
    ("sockets", "environment", "offered", "driver"),
    [
        ([], {}, {"pa", "pipewire"}, "none"),
        (["pulse/native"], {}, {"pa", "pipewire"}, "pa"),
        (["pulse/native"], {}, {"alsa"}, "none"),
        (["pulse/native", "pipewire-0"], {}, {"pa", "pipewire"}, "pipewire"),
        (["pulse/native", "pipewire-0"], {}, {"pa"}, "pa"),
        ([], {"PULSE_SERVER": "tcp:127.0.0.1"}, {"pa"}, "pa"),
    ],
)
def test_sound(tmp_path: Path, sockets: list[str], environment: dict[str, str], offered: set[str], driver: str) -> None:
    for name in sockets:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert audio.choose({"XDG_RUNTIME_DIR": str(tmp_path)} | environment, offered, platform="linux") == driver


def test_sound_on_a_mac() -> None:
    assert audio.choose({}, {"coreaudio"}, platform="darwin") == "coreaudio"
    assert audio.choose({}, set[str](), platform="darwin") == "none"
