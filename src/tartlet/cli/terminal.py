"""Asking the person at the terminal, wherever standard input and output lead."""

from __future__ import annotations

import os
from collections.abc import Callable

from tartlet.errors import UserError

_LONGEST = 4094
"""Characters that a terminal takes as one line: the rest of a longer one is lost, which nobody would notice."""


class NobodyToAsk(UserError):
    """There is no terminal, or whoever sits there ended the input."""


class AnswerTooLong(UserError):
    """An answer that may have been cut."""


def asked(prompt: str, hint: str) -> str:
    """What is typed after `prompt`. Raises NobodyToAsk with `hint`, AnswerTooLong."""

    def read() -> str:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(prompt.encode())
            line = terminal.readline()
        if not line:
            raise EOFError
        return line.decode(errors="surrogateescape").rstrip("\r\n")

    return _checked(read, hint)


def asked_secretly(prompt: str, hint: str) -> str:
    """The same without showing what is typed."""
    from getpass import getpass

    return _checked(lambda: getpass(prompt), hint)


def _checked(read: Callable[[], str], hint: str) -> str:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
        answer = read()
    except OSError as exc:
        raise NobodyToAsk("there is no terminal to ask at", hint) from exc
    except EOFError as exc:
        with open("/dev/tty", "wb", buffering=0) as terminal:
            terminal.write(b"\n")  # Ctrl+D ends no line
        raise NobodyToAsk("nothing was typed", hint) from exc
    if len(os.fsencode(answer)) >= _LONGEST:
        raise AnswerTooLong("that is longer than a terminal takes", hint)
    return answer
