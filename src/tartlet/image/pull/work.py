"""The folder in which an image is put together: found again by its digest, owned by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path

from tartlet.errors import FileTrouble
from tartlet.host.files import removed
from tartlet.host.locks import LockTrouble, try_file_lock
from tartlet.host.trouble import trouble_writing
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import ImageFiles

JOURNAL = "journal"


class WorkFiles(ImageFiles):
    """The files of a work folder, whoever has it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def journal_path(self) -> Path:
        """Which pieces of the disk are finished."""
        return self.path / JOURNAL


class WorkFolder(WorkFiles):
    """A claimed work folder. Whatever is in it when it is released waits for the next pull of the same image."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(path)
        self._descriptor = descriptor

    def sign_of_life(self) -> None:
        """Count the day until this is collected from now on. Raises OSError."""
        os.utime(self._descriptor)

    def finish(self) -> None:
        """Leave the image's files, and the journal until these are in their place. Raises FileTrouble."""
        needed = (
            self.config_path,
            self.disk_path,
            self.nvram_path,
            self.manifest_path,
            self.oci_config_path,
            self.journal_path,
        )
        wanted = {path.name for path in needed}
        try:
            for name in os.listdir(self._descriptor):
                if name not in wanted:
                    removed(self.path / name)
        except OSError as exc:
            raise FileTrouble("cannot clean up", self.path, exc) from exc

    def discard(self) -> None:
        """Remove it, unless it was moved away. Raises FileTrouble."""
        try:
            if _is(self._descriptor, self.path):
                removed(self.path)
        except OSError as exc:
            raise FileTrouble("cannot remove", self.path, exc) from exc

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


def claim(cache: ImageCache, digest: str) -> WorkFolder | None:
    """The work folder of an image; None when another process has it. Raises FileTrouble, LockTrouble."""
    path = cache.work_folders() / digest.partition(":")[2][:32]
    while True:
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass
        except OSError as exc:
            raise trouble_writing(path, exc) from exc
        try:
            descriptor = try_file_lock(path)
        except LockTrouble:
            if os.path.lexists(path):
                raise
            continue  # it became an image, or was collected
        if descriptor is None:
            return None
        if _is(descriptor, path):
            folder = WorkFolder(path, descriptor)
            folder.sign_of_life()
            return folder
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
