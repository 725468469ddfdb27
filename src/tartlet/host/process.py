"""One runner for other programs: words, never a shell."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO

import anyio
from anyio.abc import ByteReceiveStream, Process

from tartlet.errors import ToolFailed, ToolMissing

log = logging.getLogger(__name__)


async def run(*argv: str | os.PathLike[str], stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed; no shell is involved.

    The caller sets the deadline (`anyio.fail_after`). When it passes, or the task is
    cancelled, the child is killed and reaped first. `env` is added to the environment.
    Raises ToolMissing, ToolFailed.
    """
    words = [os.fspath(word) for word in argv]
    log.debug("run: %s", shlex.join(words))
    try:
        with TemporaryFile() as given:  # a file, because a pipe breaks when the program does not read it to its end
            given.write(stdin)
            given.seek(0)
            process = await started(words, stdin=given, env={**os.environ, **(env or {})})
    except FileNotFoundError as exc:
        raise ToolMissing(words[0]) from exc
    async with process:
        stdout, stderr = await _said(process)
        return _outcome(words, await process.wait(), stdout, stderr)


async def started(
    words: Sequence[str],
    *,
    stdin: int | IO[bytes] | None = subprocess.PIPE,
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    start_new_session: bool = False,
) -> Process:
    """`anyio.open_process`, not given up in the middle: asyncio kills what it is just starting, but does not reap it.

    Raises OSError.
    """
    process: Process | None = None
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=pass_fds,
            start_new_session=start_new_session,
        )
    assert process is not None
    return process


async def _said(process: Process) -> tuple[bytes, bytes]:
    """What it prints, to the end of both its outputs."""
    told = [b"", b""]

    async def hear(number: int, stream: ByteReceiveStream | None) -> None:
        assert stream is not None
        told[number] = b"".join([piece async for piece in stream])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear, 0, process.stdout)
        tasks.start_soon(hear, 1, process.stderr)
    return told[0], told[1]


def run_now(*argv: str | os.PathLike[str], timeout: float | None = None) -> str:
    """The same for code that has no event loop. Raises ToolMissing, ToolFailed, subprocess.TimeoutExpired."""
    words = [os.fspath(word) for word in argv]
    log.debug("run: %s", shlex.join(words))
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout)
    except FileNotFoundError as exc:
        raise ToolMissing(words[0]) from exc
    return _outcome(words, done.returncode, done.stdout, done.stderr)


def _outcome(words: list[str], exit_status: int, stdout: bytes, stderr: bytes) -> str:
    if exit_status:
        raise ToolFailed(words, exit_status, stderr.decode(errors="replace"))
    return stdout.decode(errors="replace")
