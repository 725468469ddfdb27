"""The web console of a running VM, asked for by another process."""

from __future__ import annotations

from tartlet.console.opener import open_url
from tartlet.vm.control.ask import asked
from tartlet.vm.stored.folder import VmFolder


async def web_link(vm: VmFolder) -> str:
    """An address on this host that opens the web console of a running VM, once and within an hour.

    Raises Refused (an AssetsMissing or PortRefused of the supervisor, in its words), VmNotRunning, SupervisorGone.
    """
    return await _asked_for(vm, to_open=False)


async def open_web(vm: VmFolder) -> None:
    """Open the web console of a running VM in the desktop's browser.

    Raises what `web_link` does, and ToolMissing, ToolFailed, OpenerSilent.
    """
    await open_url(await _asked_for(vm, to_open=True))


async def _asked_for(vm: VmFolder, *, to_open: bool) -> str:
    async with asked(vm, "web", to_open=to_open) as answer:
        return str(answer.told["link"])
