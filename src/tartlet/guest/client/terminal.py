"""This process's own terminal while a command in a guest has it: raw mode, size, and the signals that concern it."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager

import anyio

_NEWS = (signal.SIGWINCH, signal.SIGCONT, signal.SIGTERM, signal.SIGHUP)


def size() -> tuple[int, int]:
    """Rows and columns of the terminal at standard output, or the size that every program expects."""
    try:
        told = os.get_terminal_size(1)
    except OSError:
        return 24, 80
    return (told.lines, told.columns) if told.lines and told.columns else (24, 80)


class OwnTerminal:
    """The terminal at standard input, handed over to a command for the length of a block."""

    def __init__(self, *, keep_signals: bool) -> None:
        """With `keep_signals` its keys still interrupt this process, because the command does not get them."""
        self._keep_signals = keep_signals
        self._changed = anyio.Event()
        self.ended_by: signal.Signals | None = None
        """The signal that asked this process to end."""

    @contextmanager
    def held(self) -> Generator[None]:
        """Raw mode, where standard input is a terminal; as it was before in every case at the end."""
        if not os.isatty(0):
            yield
            return
        before = termios.tcgetattr(0)
        try:
            self._make_raw()
            yield
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)

    async def obey(self, signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
        """Follow what happens to the terminal; cancel `scope` when this process is to end."""
        async for number in signals:
            if number in (signal.SIGTERM, signal.SIGHUP):
                self.ended_by = number
                scope.cancel()
                return
            if number == signal.SIGCONT and os.isatty(0):  # whoever had the terminal meanwhile set it to its own liking
                self._make_raw()
            self._changed.set()

    async def sizes(self) -> AsyncGenerator[tuple[int, int]]:
        """Its size whenever that has changed; only the last one of a hurried row."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            yield size()

    def _make_raw(self) -> None:
        """Every byte as it is typed and printed (termios(3), cfmakeraw)."""
        mode = termios.tcgetattr(0)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        if not self._keep_signals:
            mode[3] &= ~termios.ISIG
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSADRAIN, mode)


@contextmanager
def news() -> Generator[AsyncIterator[signal.Signals]]:
    """Signals that concern a terminal, instead of what they would do otherwise."""
    with anyio.open_signal_receiver(*_NEWS) as signals:
        yield signals
