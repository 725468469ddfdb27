"""An image in the cache, as a folder with its files; `cache` finds, installs and removes them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.vm_files import VmFiles
from tartlet.errors import UserError
from tartlet.image.format.reference import ImageName

MANIFEST_FILE = "manifest.json"
"""The manifest as it was received, byte for byte."""


OCI_CONFIG_FILE = "oci-config.json"
"""The image's OCI config where it is another than every image without labels has; other programs keep none."""


class ImageMissing(UserError):
    """No image of that name is in the cache."""

    exit_code = 2

    def __init__(self, name: ImageName) -> None:
        super().__init__(
            f'the specified VM "{name}" does not exist',
            f"`tart list` shows what is in the cache; tart pull {name} brings it there",
        )
        self.name = name


class ImageInUse(UserError):
    """Another process reads the image, or has locked it."""

    def __init__(self, name: ImageName) -> None:
        super().__init__(f'the image "{name}" is in use by another process', "try again when that has ended")
        self.name = name


class ImageFiles(VmFiles):
    """The files of an image in its folder."""

    __slots__ = ()

    @property
    def manifest_path(self) -> Path:
        """The manifest's bytes; images of old programs have none."""
        return self.path / MANIFEST_FILE

    @property
    def oci_config_path(self) -> Path:
        """What its registry has as the image's config, byte for byte, if that was kept."""
        return self.path / OCI_CONFIG_FILE


@dataclass(frozen=True, slots=True)
class CachedImage(ImageFiles):
    """An image in the cache. A value: nothing is open or locked."""

    name: ImageName
    """By its digest."""
    path: Path
    """Its folder."""

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return str(self.name.digest)

    def manifest(self) -> bytes | None:
        """The manifest as it was received, or None. Not verified."""
        try:
            return self.manifest_path.read_bytes()
        except OSError:
            return None


def is_complete(folder: Path) -> bool:
    """Whether a folder has the files of an image: a flat one, or a stacked one that another program has put there."""
    at = os.fspath(folder)
    if not (os.path.exists(f"{at}/config.json") and os.path.exists(f"{at}/nvram.bin")):
        return False
    disk = os.path.exists(f"{at}/disk.img") or _is_stacked(f"{at}/{MANIFEST_FILE}")
    return disk and not os.path.exists(f"{at}/overlay.asif")


def _is_stacked(manifest: str) -> bool:
    """Whether a manifest tells of overlays; in JSON the slash in their media type may be escaped."""
    from tartlet.image.format.manifest import OVERLAY_FAMILY  # images with a disk are not asked

    _, _, family = OVERLAY_FAMILY.partition("/")
    try:
        with open(manifest, "rb") as file:
            return family.encode() in file.read()
    except OSError:
        return False
