"""What the image cache holds that can be pruned: images, interrupted pulls, and restore images of other programs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from tartlet.disk.footprint import measured, together
from tartlet.errors import FileTrouble
from tartlet.host import access_time
from tartlet.host.files import removed
from tartlet.host.locks import removable
from tartlet.host.paths import Home
from tartlet.host.scratch import discarded, is_resumable
from tartlet.image.cache.cache import ImageCache
from tartlet.image.cache.cached_image import MANIFEST_FILE, CachedImage, ImageInUse, ImageMissing
from tartlet.image.cache.prune import Kind, Prunable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A Prunable that is not weighed yet; the fields mean the same."""

    kind: Kind
    name: str
    path: Path
    accessed: float
    remove: Callable[[], bool]
    is_used: Callable[[], bool]
    more: Sequence[Path] = ()
    """Files that belong to it beside `path`."""


def weighed(candidates: Iterable[Candidate], others: Iterable[Path] = ()) -> list[Prunable]:
    """The candidates with the room they take. `others` are folders that share blocks with them and stay.

    Raises FileTrouble.
    """
    found = {str(one.path): one for one in candidates}
    looks = {name: measured([one.path, *one.more]) for name, one in found.items()}
    if any(look.blocks for look in looks.values()):
        looks |= {str(path): measured([path]) for path in others}
    footprints = together(looks)
    return [
        Prunable(
            kind=one.kind,
            name=one.name,
            path=one.path,
            accessed=one.accessed,
            footprint=footprints[name],
            remove=one.remove,
            is_used=one.is_used,
        )
        for name, one in found.items()
    ]


def candidates(home: Home) -> Iterator[Candidate]:
    """What there is. Whatever vanishes meanwhile is left out. Raises FileTrouble."""
    cache = ImageCache(home)
    for image in cache.images():
        with _present(image.path):
            yield _image(cache, image)
    place = cache.work_folders()
    for path in _in(place, is_resumable):
        with _present(path):
            yield plain(Kind.INTERRUPTED, _name_of_pull(path), path, os.stat(path).st_mtime, place)
    for path in _in(home.cache / "IPSWs", lambda name: name.endswith(".ipsw")):
        with _present(path):
            yield plain(Kind.RESTORE_IMAGE, path.name, path, access_time.of(path), place)


def plain(
    kind: Kind,
    name: str,
    path: Path,
    accessed: float,
    place: Path,
    *,
    more: Sequence[Path] = (),
    lock: Path | None = None,
) -> Candidate:
    """A file or folder that whoever uses it locks (`kept_from_removal`), or the file `lock` for all of it.

    `place` is for work on its file system. `more` are further files that go with it.
    """

    @contextmanager
    def free_of_use() -> Generator[bool]:
        with removable(path) as free, removable(lock) if lock else nullcontext(True) as free_too:
            yield free and free_too

    def remove() -> bool:
        with free_of_use() as free:
            if free:
                _discard(path, place)
                for beside in more:
                    removed(beside)
            return free

    def is_used() -> bool:
        with free_of_use() as free:
            return not free

    return Candidate(kind=kind, name=name, path=path, accessed=accessed, remove=remove, is_used=is_used, more=more)


def _discard(path: Path, place: Path) -> None:
    """In one step for whoever looks. Raises FileTrouble."""
    try:
        if not path.is_dir():
            removed(path)
            return
        with suppress(FileNotFoundError):
            discarded(path, place)
    except OSError as exc:
        raise FileTrouble("cannot remove", path, exc) from exc


def _image(cache: ImageCache, image: CachedImage) -> Candidate:
    def remove() -> bool:
        try:
            cache.delete(image.name)
        except ImageInUse:
            return False
        except ImageMissing:
            log.debug("%s was removed by somebody else", image.name)
        return True

    return Candidate(
        kind=Kind.IMAGE,
        name=str(image.name),
        path=image.path,
        accessed=access_time.of(image.path),
        remove=remove,
        is_used=lambda: cache.is_used(image),
    )


def _name_of_pull(work: Path) -> str:
    """Its digest, which is all that a work folder tells."""
    with suppress(OSError):
        return f"sha256:{hashlib.sha256((work / MANIFEST_FILE).read_bytes()).hexdigest()}"
    return f"sha256:{work.name}…"


def _in(folder: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise FileTrouble("cannot list", folder, exc) from exc
    yield from (folder / name for name in sorted(names) if wanted(name))


@contextmanager
def _present(path: Path) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        log.debug("%s vanished meanwhile", path)
    except OSError as exc:
        raise FileTrouble("cannot look at", path, exc) from exc
