"""Pulled images on this machine: a folder for each digest, and links that give them tags.

    cache/OCIs/<host>/<namespace…>/sha256:<hex>/   config.json disk.img nvram.bin [manifest.json] [.explicitly-pulled]
    cache/OCIs/<host>/<namespace…>/<tag>           symbolic link to the absolute path of such a folder

An image is there when its files are; it appears and disappears by one rename. It stays as long as a tag leads to it or
it was pulled by its digest. Files of an image are never written again: VMs stand on them. Locks, all of the kernel:

* the folder `OCIs`: held for the moments in which images and links appear or go;
* the file `OCIs/.pieces.lock`: a number in it for each piece of a disk that a pull is fetching;
* an image's folder: shared by whoever reads it (`using`), exclusive by whoever removes it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble
from tartlet.host import access_time
from tartlet.host.files import sync_folder
from tartlet.host.locks import LockTrouble, file_lock, lock_holder, removable, try_file_lock, try_process_lock
from tartlet.host.paths import Home, made
from tartlet.host.scratch import collect, discarded
from tartlet.host.trouble import trouble_writing
from tartlet.image.cache.cached_image import CachedImage, ImageInUse, ImageMissing, is_complete
from tartlet.image.cache.tree import digest_of_tag, entries, leads_to, name_of, put_image, put_tag, remove_tag
from tartlet.image.format.reference import ImageName

MARK = ".explicitly-pulled"
"""An empty file: this image was pulled by its digest and needs no tag to stay."""


@dataclass(frozen=True, slots=True)
class CachedName:
    """One name by which an image can be found: a tag, or the digest itself."""

    name: ImageName
    image: CachedImage


class ImageCache:
    """The images of a home. Its methods block only for the time a file system takes, and for others doing the same."""

    def __init__(self, home: Home) -> None:
        self.root = home.cache / "OCIs"
        self._home = home

    @property
    def pieces_lock(self) -> Path:
        """A file with a lock for each piece that a pull is fetching."""
        return self.root / ".pieces.lock"

    def path(self, name: ImageName) -> Path:
        """Where an image's folder, or a tag's link, is or would be."""
        return self.root / name.cache_path

    def find(self, name: ImageName) -> CachedImage:
        """The image of that name; its access date stays. Raises ImageMissing."""
        image = self.cached(name)
        if image is None:
            raise ImageMissing(name)
        return image

    def open(self, name: ImageName) -> CachedImage:
        """The image of that name, marked as used now. Raises ImageMissing, FileTrouble."""
        image = self.find(name)
        access_time.mark(image.path)
        return image

    def cached(self, name: ImageName) -> CachedImage | None:
        """The image of that name if it is here and complete."""
        digest = name.digest or digest_of_tag(self.path(name))
        if digest is None:
            return None
        image = self._image(name.at_digest(digest))
        return image if is_complete(image.path) else None

    def names(self) -> list[CachedName]:
        """Every name in ascending order of its text, tags and digests. No access date changes."""
        found: list[CachedName] = []
        for folder, entry, is_link in self._entries():
            name = name_of(folder, entry, is_link=is_link)
            image = self.cached(name) if name else None
            if name and image:
                found.append(CachedName(name, image))
        return sorted(found, key=lambda one: str(one.name))

    def images(self) -> list[CachedImage]:
        """Every complete image once, in ascending order."""
        return [one.image for one in self.names() if one.name.digest]

    @contextmanager
    def using(self, image: CachedImage) -> Generator[CachedImage]:
        """Keep an image from being removed for the length of the block. Raises ImageMissing."""
        with ExitStack() as held:
            try:
                descriptor = held.enter_context(file_lock(image.path, shared=True))
                vanished = not _same(descriptor, image.path) or not is_complete(image.path)
            except LockTrouble as exc:
                if os.path.lexists(image.path):
                    raise
                raise ImageMissing(image.name) from exc
            if vanished:
                raise ImageMissing(image.name)
            yield image

    def work_folders(self) -> Path:
        """Where to prepare an image: `tmp`, or a folder inside the cache when that is on another file system."""
        made(self.root)
        try:
            if os.stat(self._home.tmp).st_dev == os.stat(self.root).st_dev:
                return self._home.tmp
        except OSError as exc:
            raise FileTrouble("cannot look at", self._home.tmp, exc) from exc
        place = made(self._home.cache / "tmp")
        collect(place)
        return place

    def install(self, folder: Path, name: ImageName, digest: str) -> CachedImage:
        """Move a finished folder (below `work_folders`) to its place and let `name` lead to it, all in one step.

        An image that is there already stays, and the folder is removed. Raises FileTrouble.
        """
        image = self._image(name.at_digest(digest))
        with self._alone():
            try:
                sync_folder(folder)
                put_image(folder, image.path)
            except OSError as exc:
                raise trouble_writing(image.path, exc) from exc
            self._named(name, image)
        return image

    def link(self, name: ImageName, digest: str) -> CachedImage | None:
        """Let `name` lead to an image that is here: its tag's link, or for a digest the mark. None when it is not here.

        What no name leads to any more is removed. Raises FileTrouble.
        """
        image = self._image(name.at_digest(digest))
        with self._alone():
            if not is_complete(image.path):
                return None
            self._named(name, image)
        return image

    def delete(self, name: ImageName) -> None:
        """Remove a tag, or an image with its digest, and what nothing leads to then.

        Raises ImageMissing, ImageInUse, FileTrouble.
        """
        path = self.path(name)
        if not os.path.lexists(path):
            raise ImageMissing(name)
        with self._alone():
            try:
                if name.digest:
                    self._remove(CachedImage(name, path))
                else:
                    remove_tag(path, name)
            except OSError as exc:
                raise FileTrouble("cannot delete", path, exc) from exc
            self._collect()

    def remove(self, image: CachedImage) -> None:
        """Remove an image; its tags lead nowhere until the next collection.

        Raises ImageMissing, ImageInUse, FileTrouble.
        """
        with self._alone():
            try:
                self._remove(image)
            except OSError as exc:
                raise FileTrouble("cannot delete", image.path, exc) from exc

    def is_used(self, image: CachedImage) -> bool:
        """Whether a process reads the image, or pushes it, at this moment. Raises LockTrouble."""
        with removable(image.path) as free:
            return not free or lock_holder(image.config_path) != 0

    def unused(self) -> list[ImageName]:
        """The images that a collection would remove at this moment."""
        return self._unused()

    def collect(self) -> list[ImageName]:
        """Remove links that lead nowhere and images that nothing leads to, but for those in use; gives the images.

        Raises FileTrouble.
        """
        with self._alone():
            return self._collect()

    def _image(self, name: ImageName) -> CachedImage:
        return CachedImage(name, self.path(name))

    @contextmanager
    def _alone(self) -> Generator[None]:
        made(self.root)
        with file_lock(self.root):
            yield

    def _named(self, name: ImageName, image: CachedImage) -> None:
        """Needs `_alone`."""
        try:
            if name.digest:
                (image.path / MARK).touch()
            elif not leads_to(self.path(name), image.path):
                put_tag(self.path(name), image.path)
            access_time.mark(image.path)
        except OSError as exc:
            raise trouble_writing(self.path(name), exc) from exc
        self._collect()

    def _collect(self) -> list[ImageName]:
        """Needs `_alone`."""
        try:
            gone = [name for name in self._unused() if self._removed(name)]
            for folder, entry, is_link in list(self._entries()):
                if is_link and self._leads_nowhere(folder, entry):
                    os.unlink(f"{os.fspath(self.root)}/{folder}/{entry}")
        except OSError as exc:
            raise FileTrouble("cannot collect images in", self.root, exc) from exc
        return gone

    def _leads_nowhere(self, folder: str, entry: str) -> bool:
        if entry.startswith("."):  # a process was killed before it gave the link its name
            return True
        name = name_of(folder, entry, is_link=True)
        return not (name and self.cached(name)) and not os.path.exists(self.root / folder / entry)

    def _unused(self) -> list[ImageName]:
        """The images without a mark that no tag leads to, and what is left of incomplete ones."""
        names = [(name_of(folder, entry, is_link=is_link), is_link) for folder, entry, is_link in self._entries()]
        tagged = [self.cached(name) for name, is_link in names if name and is_link]
        linked = {image.path for image in tagged if image}
        folders = [name for name, is_link in names if name and not is_link]
        return [name for name in folders if self.path(name) not in linked and not (self.path(name) / MARK).exists()]

    def _removed(self, name: ImageName) -> bool:
        try:
            self._remove(self._image(name))
        except (ImageMissing, ImageInUse):
            return False
        return True

    def _remove(self, image: CachedImage) -> None:
        """Needs `_alone`. Raises ImageMissing, ImageInUse, OSError."""
        with ExitStack() as held:
            try:
                _claim(held, try_file_lock(image.path), image)
                if image.config_path.exists():  # other programs lock an image that they push by this file
                    _claim(held, try_process_lock(image.config_path), image)
            except LockTrouble as exc:
                if os.path.lexists(image.path):
                    raise
                raise ImageMissing(image.name) from exc
            discarded(image.path, self.work_folders())

    def _entries(self) -> Iterator[tuple[str, str, bool]]:
        return entries(os.fspath(self.root))


def _claim(held: ExitStack, descriptor: int | None, image: CachedImage) -> None:
    if descriptor is None:
        raise ImageInUse(image.name)
    held.callback(os.close, descriptor)


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
