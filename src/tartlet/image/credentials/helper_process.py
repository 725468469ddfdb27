"""Programs that keep secrets: asked through standard input, so that no secret is ever among a program's words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from subprocess import CompletedProcess

import anyio

from tartlet.errors import UserError

_LONGEST = 32_768
"""Bytes that any system's pipe holds without somebody who reads it."""


async def answer_of(words: Sequence[str], stdin: bytes, environment: Mapping[str, str]) -> CompletedProcess[bytes]:
    """What a program prints after it was given `stdin`, whether it reads that or not.

    The caller sets the deadline; when it passes the program is killed. Raises OSError, UserError for too long an input.
    """
    if len(stdin) > _LONGEST:
        raise UserError(f"a secret of {len(stdin)} bytes is too long")
    reading, writing = os.pipe()
    try:
        try:
            os.write(writing, stdin)
        finally:
            os.close(writing)
        return await anyio.run_process(words, stdin=reading, check=False, env=dict(environment))
    finally:
        os.close(reading)
