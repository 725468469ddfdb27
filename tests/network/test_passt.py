"""The passt process: started, tried, missed, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from tartlet.network.attachment import AttachRequest
from tartlet.network.backend import attached
from tartlet.network.user_mode.passt import Passt
from tartlet.network.user_mode.slirp import Slirp

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.needs_root,
    pytest.mark.usefixtures("inside_private_network"),
    pytest.mark.skipif(shutil.which("passt") is None, reason="needs passt"),
]

REQUEST = AttachRequest(vm="tiny", mac="7a:65:e4:3f:be:01")
HOLDER = """
import anyio, sys
from tartlet.network.attachment import AttachRequest
from tartlet.network.user_mode.passt import Passt
async def main():
    async with Passt().attach(AttachRequest(vm="tiny", mac="7a:65:e4:3f:be:01")) as attachment:
        print(attachment.record.address, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def passts() -> list[int]:
    """Those in this network."""
    here = os.readlink("/proc/thread-self/ns/net")
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().startswith("passt") and os.readlink(folder / "ns/net") == here:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


async def test_it_stands_and_leaves_nothing() -> None:
    async with Passt().attach(REQUEST) as attachment:
        assert len(passts()) == 1
        socket.create_connection((str(attachment.record.address), attachment.record.ssh_port)).close()
    assert passts() == []
    descriptor = attachment.cables[0].descriptors[0]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_its_death_is_told() -> None:
    async with Passt().attach(REQUEST) as attachment:
        with anyio.move_on_after(0.2) as waiting:
            await attachment.lost()
        assert waiting.cancelled_caught
        (pid,) = passts()
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(20):
            loss = await attachment.lost()
    assert "passt ended" in str(loss)


def test_it_dies_with_a_killed_supervisor() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline().startswith(b"127.64.")
        assert len(passts()) == 1
        holder.kill()
    deadline = time.monotonic() + 20
    while passts() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert passts() == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo broken >&2; exit 1", "failed its trial: broken"),
        ("exec sleep 30", "failed its trial"),
        ("head -c 100000 /dev/zero >&2; sleep 1; exit 3", "failed its trial"),
    ],
    ids=["ends", "mute", "floods"],
)
async def test_a_passt_that_does_not_work_makes_room_for_slirp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    program = tmp_path / "passt"
    program.write_text(f'#!/bin/sh\n[ "$1" = --help ] && echo --fd --no-map-gw --one-off && exit\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with attached(REQUEST, (Passt(), Slirp())) as attachment:
        assert attachment.record.backend == "slirp"
        assert reason in attachment.notes[0]
