"""URLs go to the desktop's opener, which may run longer than we do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from machines import text_in
from tartlet.console.opener import open_url
from tartlet.errors import ToolMissing

pytestmark = pytest.mark.anyio


async def test_an_opener_that_becomes_the_viewer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$$ $1 end" > {tmp_path}/told\nexec sleep 60\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with anyio.fail_after(5):
        await open_url("vnc://:a-b-c-d@127.0.0.1:5900", platform="linux")
    told = await text_in(tmp_path / "told", "end", within=5)
    viewer, url, _ = told.split()
    assert url == "vnc://:a-b-c-d@127.0.0.1:5900"
    os.kill(int(viewer), signal.SIGKILL)


async def test_no_opener_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing) as missing:
        await open_url("vnc://127.0.0.1", platform="linux")
    assert "xdg-utils" in (missing.value.hint or "")
