"""The check for left-over processes notices one, also one that turned into a daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from leftovers import process_ids, survivors

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("before_it", [[], ["setsid"]], ids=["child", "new session"])
def test_a_running_program_is_a_leftover_until_it_ends(before_it: list[str]) -> None:
    before = process_ids()
    child = subprocess.Popen([*before_it, "sh", "-c", "echo up; exec sleep 30"], stdout=subprocess.PIPE)
    with child:
        assert child.stdout
        child.stdout.readline()  # before this it may still be a copy of this process, without the mark
        found = survivors(before, grace=0.2)
        child.kill()
    assert any("sleep 30" in told for told in found)
    assert survivors(before, grace=1) == []


def test_a_daemon_with_another_parent_is_found() -> None:
    before = process_ids()
    told = subprocess.run(
        ["sh", "-c", "sleep 31 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, check=True, text=True
    )
    assert any("sleep 31" in line for line in survivors(before, grace=0.2))
    os.kill(int(told.stdout), signal.SIGKILL)
    assert survivors(before, grace=2) == []
