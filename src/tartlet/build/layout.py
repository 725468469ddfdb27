"""Where things are on the disk of a built guest: a GPT with an EFI system partition and a root partition.

Partition types are those of the Discoverable Partitions Specification (UAPI group).
"""

from __future__ import annotations

from dataclasses import dataclass

from tartlet.build.recipe import ESP_SIZE, Recipe
from tartlet.units import GIB, MIB

ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT_TYPES = {
    "amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
}
SECTOR = 512

_SMALLEST_ROOT = 2 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Offsets and sizes in bytes."""

    esp_offset: int
    esp_size: int
    root_offset: int
    root_size: int

    @property
    def disk_size(self) -> int:
        """One more MiB behind the root, for the second partition table."""
        return self.root_offset + self.root_size + MIB

    def sfdisk_script(self, recipe: Recipe) -> str:
        """The table as sfdisk(8) reads it."""
        return (
            "label: gpt\nunit: sectors\n"
            f"label-id: {recipe.identifier('disk')}\n"
            f"start={self.esp_offset // SECTOR}, size={self.esp_size // SECTOR}, "
            f"type={ESP_TYPE}, uuid={recipe.identifier('esp')}, name=esp\n"
            f"start={self.root_offset // SECTOR}, size={self.root_size // SECTOR}, "
            f"type={ROOT_TYPES[recipe.architecture]}, uuid={recipe.identifier('root')}, name=root\n"
        )


def layout_for(content: int) -> Layout:
    """Room for `content` bytes of files in the root, and for as much again as a first update needs."""
    wanted = max(_SMALLEST_ROOT, content * 5 // 4 + GIB)
    return Layout(
        esp_offset=MIB,
        esp_size=ESP_SIZE,
        root_offset=MIB + ESP_SIZE,
        root_size=-(-wanted // (64 * MIB)) * 64 * MIB,
    )
