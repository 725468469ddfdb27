"""Other programs: what they print, how they fail, and that nothing of them stays."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from tartlet.errors import ToolFailed, ToolMissing
from tartlet.host.process import run, run_now


async def test_a_program_gets_its_input_and_its_output_comes_back() -> None:
    assert await run("cat", stdin=b"some words") == "some words"


async def test_a_program_need_not_read_its_input() -> None:
    assert await run("true", stdin=b"x" * 1_000_000) == ""


async def test_a_failure_tells_the_last_line_of_what_was_said() -> None:
    with pytest.raises(ToolFailed, match="sh failed: the reason") as caught:
        await run("sh", "-c", "echo first >&2; echo the reason >&2; exit 3")
    assert caught.value.exit_status == 3


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ToolMissing, match="no-such-program"):
        await run("no-such-program")


async def test_a_deadline_ends_the_program(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    async def run_too_long() -> None:
        with anyio.fail_after(60) as limit:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(over_once_it_runs, limit)
                await run("sh", "-c", f"echo $$ > {told}; exec sleep 120")

    async def over_once_it_runs(limit: anyio.CancelScope) -> None:
        while not (told.exists() and told.read_text()):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.02)
        limit.deadline = anyio.current_time()

    with pytest.raises(TimeoutError):
        await run_too_long()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


async def test_one_that_is_given_up_while_it_starts_is_reaped_too() -> None:
    def children() -> str:
        return Path("/proc/self/task", str(os.getpid()), "children").read_text()

    before = children()
    for step in range(40):
        with anyio.move_on_after(step * 0.0002):
            await run("sleep", "7530")
        assert children() == before


def test_without_an_event_loop_it_is_the_same() -> None:
    assert run_now("echo", "words") == "words\n"
    with pytest.raises(ToolFailed, match="exit status 7"):
        run_now("sh", "-c", "exit 7")
    with pytest.raises(ToolMissing):
        run_now("no-such-program")
