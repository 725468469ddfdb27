"""How images and tags lie on the disk: folders for digests, links for tags. When, and under which lock: `cache`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from tartlet.host.files import exchange, move_if_free, removed, sync_folder
from tartlet.host.paths import made
from tartlet.image.cache.cached_image import ImageMissing, is_complete
from tartlet.image.format.reference import BadImageName, ImageName, from_cache, is_digest


def entries(root: str, folder: str = "") -> Iterator[tuple[str, str, bool]]:
    """What may be an image or a tag: its folder below `root`, its name, whether it is a link.

    Folders of images are not looked into, which would change their access dates. Raises OSError.
    """
    try:
        with os.scandir(f"{root}/{folder}" if folder else root) as there:
            found = [(entry.name, entry.is_symlink(), entry.is_dir()) for entry in there]
    except FileNotFoundError:
        return
    for name, is_link, is_folder in found:
        if is_link or is_digest(name):
            yield folder, name, is_link
        elif is_folder:
            yield from entries(root, f"{folder}/{name}" if folder else name)


def name_of(folder: str, entry: str, *, is_link: bool) -> ImageName | None:
    """The name of an image or tag by its place; None when it is neither."""
    try:
        return from_cache(folder, entry, is_link=is_link)
    except BadImageName:
        return None


def digest_of_tag(link: Path) -> str | None:
    """Where a tag leads: the text of its link counts, so that a moved home, or a relative link, is understood."""
    try:
        digest = os.path.basename(os.readlink(link))
    except OSError:
        return None
    return digest if is_digest(digest) else None


def leads_to(link: Path, folder: Path) -> bool:
    """Whether a tag leads to an image in the very words that others expect."""
    with suppress(OSError):
        return os.readlink(link) == os.fspath(folder)
    return False


def put_image(folder: Path, place: Path) -> None:
    """Move a finished image to its place; one that is there already stays, and the new one goes. Raises OSError."""
    made(place.parent)
    try:
        move_if_free(folder, place)
    except FileExistsError:
        if not is_complete(place):  # what another program has left
            exchange(folder, place)
        removed(folder)
    sync_folder(place.parent)


def put_tag(link: Path, folder: Path) -> None:
    """Let a tag lead to an image's folder, in one step. Raises OSError."""
    made(link.parent)
    beside = link.with_name(f".{uuid4()}")
    os.symlink(folder, beside)
    try:
        os.replace(beside, link)
    except OSError:
        os.unlink(beside)
        raise
    sync_folder(link.parent)


def remove_tag(link: Path, name: ImageName) -> None:
    """Raises ImageMissing, OSError."""
    try:
        os.unlink(link)
    except FileNotFoundError as exc:
        raise ImageMissing(name) from exc
    sync_folder(link.parent)
