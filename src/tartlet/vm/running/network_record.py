"""What becomes known of a live VM's network after its start: a bridged guest's address."""

from __future__ import annotations

from pathlib import Path

import anyio

from tartlet.network import record
from tartlet.vm.planning.plan import Plan
from tartlet.vm.running import console
from tartlet.vm.running.run_log import RunLog

_PAUSE = 1.0
"""Seconds between two records. The guest decides how often its address changes, and shall not wear out the disk."""


async def kept_up(folder: Path, plan: Plan, log: RunLog) -> None:
    """Write each record into the VM's folder while the VM runs. With `--vnc` the first address shows the screen."""
    unseen = plan.options.vnc and plan.network.record.address is None
    async for known in plan.network.later():
        try:
            record.write(folder, known)
        except OSError as exc:
            log.note(f"the guest's address {known.address} could not be written down: {exc.strerror}")
        if unseen and known.address:
            unseen = False
            await console.show(f"vnc://{known.address}", plan.options, log)
        await anyio.sleep(_PAUSE)
