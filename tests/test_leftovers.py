"""The check for left-over processes notices one, also one that turned into a daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from leftovers import process_ids, survivors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def is_noticed(words: str, before: frozenset[int]) -> bool:
    """Whether a program with these words is found; one that is just being started has no environment for a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if any(told.endswith(words) for told in survivors(before, grace=0)):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("before_it", [[], ["setsid"]], ids=["child", "new session"])
def test_a_running_program_is_a_leftover_until_it_ends(before_it: list[str]) -> None:
    before = process_ids()
    with subprocess.Popen([*before_it, "sleep", "30"]) as child:
        noticed = is_noticed("sleep 30", before)
        child.kill()
    assert noticed
    assert survivors(before, grace=1) == []


def test_a_daemon_with_another_parent_is_found() -> None:
    before = process_ids()
    told = subprocess.run(
        ["sh", "-c", "sleep 31 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, check=True, text=True
    )
    noticed = is_noticed("sleep 31", before)
    os.kill(int(told.stdout), signal.SIGKILL)
    assert noticed
    assert survivors(before, grace=2) == []
