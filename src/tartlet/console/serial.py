"""The guest's virtio console (in Linux `/dev/hvc0`) on a terminal of the host.

`--serial` is a pseudo-terminal that QEMU makes itself: it knows whether somebody has the other end open, and drops what
the guest says while nobody has, instead of letting the guest wait. Its path is asked for over the monitor.
"""

from __future__ import annotations

import os
import termios

from tartlet.errors import FileTrouble, UserError
from tartlet.hypervisor.devices import CONSOLE, escaped
from tartlet.hypervisor.qmp import Monitor

NEW_PSEUDO_TERMINAL = "pty"
"""What `devices.Ports.console` is for `--serial`."""

SPEED = termios.B115200


class NotATerminal(UserError):
    """A `--serial-path` that is something else."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is not a terminal device", "give a path like /dev/ttyS0 or /dev/pts/7, or use --serial"
        )
        self.path = path


def existing_terminal(path: str) -> str:
    """What `devices.Ports.console` is for `--serial-path`. Raises FileTrouble, NotATerminal."""
    try:
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise FileTrouble("cannot open the serial terminal", path, exc) from exc
    try:
        if not os.isatty(terminal):
            raise NotATerminal(path)
    finally:
        os.close(terminal)
    return f"serial,path={escaped(path)}"


async def pseudo_terminal(monitor: Monitor) -> str:
    """The path of the pseudo-terminal QEMU made, set to 115200 baud. Raises CommandFailed, FileTrouble."""
    path = await monitor.terminal_of(CONSOLE)
    try:
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise FileTrouble("cannot open the pseudo-terminal", path, exc) from exc
    try:
        settings = termios.tcgetattr(terminal)
        settings[4] = settings[5] = SPEED  # input, output
        termios.tcsetattr(terminal, termios.TCSANOW, settings)
    finally:
        os.close(terminal)
    return path
