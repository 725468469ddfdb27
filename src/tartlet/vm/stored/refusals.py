"""What a VM's network refused it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tartlet.errors import FileTrouble
from tartlet.network.rules.refusals import Refusal, logged
from tartlet.vm.stored.folder import VmFolder


async def refusals(vm: VmFolder, *, follow: bool = False) -> AsyncGenerator[Refusal]:
    """What the filter refused during the VM's present or last run, the oldest first; `follow` waits for the run's end.

    Empty for a network without a filter. Raises FileTrouble.
    """
    try:
        async for refusal in logged(vm.refusals_log_path, lambda: follow and bool(vm.supervisor())):
            yield refusal
    except OSError as exc:
        raise FileTrouble("cannot read the log", vm.refusals_log_path, exc) from exc
