"""The block nodes behind a running machine's root disk, which can be told to go on with an overlay."""

from __future__ import annotations

import logging

from tartlet.hypervisor.block_nodes import ROOT_NODE, common, root_cache
from tartlet.hypervisor.disk_options import DiskOptions
from tartlet.hypervisor.qmp import CommandFailed, Monitor

log = logging.getLogger(__name__)


class RootDisk:
    """Which nodes the guest's root disk stands on now."""

    def __init__(self, monitor: Monitor, options: DiskOptions) -> None:
        self._monitor, self._options = monitor, options
        self._number = 0
        self.node = ROOT_NODE
        """What the guest's disk is plugged into."""
        self._below: list[str] = []
        """Nodes that go when `node` goes, the topmost first."""

    async def go_on_with(self, overlay: str, base: str, kind: str) -> None:
        """Write to the empty qcow2 file `overlay` from now on; what was written before is in the file `base` of `kind`.

        The machine is halted, and `base` is another name of the file it has open. If this fails it still writes there.
        QEMU opens files again by their names, at the end of a migration for instance, so the old file, whose name is
        the overlay's now, is let go of altogether. Raises CommandFailed, MonitorUnreachable.
        """
        self._number += 1
        top, file, below = (f"{what}0-{self._number}" for what in ("block", "file", "base"))
        settings = common(self._options, root_cache(self._options))
        upper = {"node-name": top, "driver": "qcow2", **settings, "file": file}
        added: list[str] = []
        try:
            for node in (
                {"node-name": file, "driver": "file", **settings, "filename": overlay},
                {**upper, "backing": None},
            ):
                await self._monitor.add_block_node(node)
                added.insert(0, str(node["node-name"]))
            await self._monitor.write_to_overlay(self.node, top)
        except CommandFailed:
            await self._remove(added)
            raise
        await self._let_go({**upper, "backing": below}, self._read_only(base, kind, below))
        self.node, self._below = top, [file, below]

    def _read_only(self, path: str, kind: str, name: str) -> dict[str, object]:
        settings = common(DiskOptions(read_only=True), root_cache(self._options))
        return {"node-name": name, "driver": kind, **settings, "file": {"driver": "file", "filename": path, **settings}}

    async def _let_go(self, upper: dict[str, object], below: dict[str, object]) -> None:
        """From here on there is no way back, and none is needed: the guest's writes go to the overlay already."""
        try:
            await self._monitor.add_block_node(below)  # not before: nobody may read what may be written
            await self._monitor.reopen_block_node(upper)
            await self._remove([self.node, *self._below])
        except CommandFailed as exc:
            log.warning("the old disk stays open: %s", exc)

    async def _remove(self, names: list[str]) -> None:
        for name in names:
            await self._monitor.remove_block_node(name)
