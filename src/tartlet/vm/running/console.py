"""What a started VM shows to people: its serial terminal and its screen."""

from __future__ import annotations

from tartlet.console import serial, vnc
from tartlet.console.opener import open_url
from tartlet.errors import UserError
from tartlet.hypervisor.qmp import Monitor
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.running.run_log import RunLog


class NoScreenSharing(UserError):
    """The guest's own screen sharing cannot be reached from here."""

    def __init__(self) -> None:
        super().__init__("--vnc: this network does not tell the guest's address", "use --vnc-experimental instead")


async def opened(monitor: Monitor, options: RunOptions, address: str | None, log: RunLog) -> None:
    """Tell the serial terminal's path and the address of the screen; `address` is where the host reaches the guest.

    A bridged guest's becomes known later.
    Raises NoScreenSharing, CommandFailed, FileTrouble.
    """
    if options.serial:
        log.announce(f"The guest's serial terminal is {await serial.pseudo_terminal(monitor)}")
    if options.vnc and address is not None:
        await show(f"vnc://{address}", options, log)
    elif options.vnc and options.net_bridged:
        log.tell("The screen will be shown once the guest has an address.")
    elif options.vnc:
        raise NoScreenSharing
    if options.vnc_experimental:
        server = await vnc.listening(monitor)
        await show(server.url, options, log)


async def show(url: str, options: RunOptions, log: RunLog) -> None:
    """Tell the screen's address, or hand it to the desktop. It may hold a password: it is not noted."""
    if options.no_graphics or options.plain_output:
        log.tell(f"VNC server is running at {url}")
        return
    log.tell(f"Opening {url}...")
    try:
        await open_url(url)
    except UserError as exc:
        log.announce(f"no viewer could be opened: {exc}")
