"""The three files that a VM is made of, and an image of one."""

from __future__ import annotations

from pathlib import Path


class VmFiles:
    """Their places in a folder, whether they are there or not."""

    __slots__ = ()

    path: Path
    """The folder."""

    @property
    def config_path(self) -> Path:
        """The configuration. Of a VM it is the file whose lock means running."""
        return self.path / "config.json"

    @property
    def disk_path(self) -> Path:
        """The main disk: raw, or a qcow2 overlay on a base beside it. A stacked image has none."""
        return self.path / "disk.img"

    @property
    def nvram_path(self) -> Path:
        """Firmware variables."""
        return self.path / "nvram.bin"
