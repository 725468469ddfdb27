"""What the host asks of a guest and what it gets, whatever agent is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run in a guest; no shell is involved."""

    name: str
    """Looked up in the guest's PATH, or a path."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Added to the environment the guest gives it."""
    workdir: str = ""
    """Where it runs; empty: the home folder of the user it runs as."""
    interactive: bool = False
    """It gets standard input; otherwise it reads from the null device."""
    tty: bool = False
    """It runs on a terminal of its own."""
    size: tuple[int, int] = (24, 80)
    """Rows and columns of that terminal at first."""
    user: str = ""
    """As whom it runs; empty: the user whom the agent chooses, `admin` where there is one."""
    detach: bool = False
    """It is left running and the call returns at once."""
    bulky: bool = False
    """Its input or output may be larger than what the QEMU guest agent carries with a command: there they go through
    files of the guest, in pieces. With other agents this makes no difference."""

    @property
    def is_demanding(self) -> bool:
        """It needs more than input before and output after it."""
        return self.tty or self.detach or self.interactive


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program in a guest ended."""

    exit_code: int
    """Its exit status; -1 when a signal ended it."""
    stdout: bytes = b""
    stderr: bytes = b""
    cut: bool = False
    """The agent kept only the beginning of an output."""


async def ignored(_: bytes) -> None:
    """Takes output that nobody asks for."""
