"""Downloaded files on disk, with what their servers said about them.

A file has the digest of its address as a name; `.part` and `.json` beside it are a download under way and the
server's validators, `.lock` is held by the process that works on it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anyio

from tartlet.build.progress import Progress, Report
from tartlet.errors import FileTrouble
from tartlet.host.files import removed, write_whole
from tartlet.host.locks import try_file_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDownload:
    """What is kept of one address."""

    address: str
    main: Path
    """What came, whole or in part."""
    more: tuple[Path, ...]
    """What else there may be of it."""
    lock: Path
    """Held while something comes."""


def kept_downloads(cache: Path) -> Iterator[KeptDownload]:
    """Everything that is kept. Raises FileTrouble."""
    try:
        names = sorted(path.name for path in cache.iterdir())
    except FileNotFoundError:
        return
    except OSError as exc:
        raise FileTrouble("cannot list", cache, exc) from exc
    for stem in sorted({name.partition(".")[0] for name in names}):
        whole, part, said, said_of_part = (cache / f"{stem}{end}" for end in ("", ".part", ".json", ".part.json"))
        main = whole if whole.name in names else part
        if main.name in names:
            address = _read(said).get("URL") or _read(said_of_part).get("URL") or stem
            more = tuple(path for path in (part, said, said_of_part) if path != main)
            yield KeptDownload(address=address, main=main, more=more, lock=cache / f"{stem}.lock")


def file_name(url: str) -> str:
    """The last part of an address, for people."""
    parts = urlsplit(url)
    return unquote(parts.path).rpartition("/")[2] or parts.hostname or url


def shown(url: str) -> str:
    """The address without the name and password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Kept:
    """What the cache has of one address: the whole file, or a part of it, and what the server said about it."""

    def __init__(self, cache: Path, url: str) -> None:
        self.url = url
        self.file = cache / hashlib.sha256(url.encode()).hexdigest()
        self.part = self.file.with_suffix(".part")
        self._said = self.file.with_suffix(".json")
        self._said_of_part = self.file.with_suffix(".part.json")

    @asynccontextmanager
    async def alone(self, report: Report) -> AsyncGenerator[None]:
        """Be the only process that works on this address."""
        lock = self.file.with_suffix(".lock")
        lock.touch()
        told = False
        while (descriptor := try_file_lock(lock)) is None:
            if not told:
                report(Progress(f"waiting for another download of {file_name(self.url)}"))
                told = True
            await anyio.sleep(0.2)
        try:
            yield
        finally:
            os.close(descriptor)

    @property
    def arrived(self) -> int:
        """Bytes of the part."""
        return self.part.stat().st_size if self.part.exists() else 0

    def conditions(self) -> dict[str, str]:
        """Headers that ask for no more than what is missing here."""
        said = _read(self._said_of_part)
        # A weak validator says "as good as", not "the same bytes", so nothing may be appended on its word.
        strong = said.get("ETag") if not said.get("ETag", "").startswith("W/") else None
        validator = strong or said.get("Last-Modified")
        if self.arrived and validator:
            return {"Range": f"bytes={self.arrived}-", "If-Range": validator}
        said = _read(self._said)
        if self.file.exists() and (said.get("ETag") or said.get("Last-Modified")):
            names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
            return {header: said[name] for name, header in names.items() if name in said}
        return {}

    def begin(self, headers: Mapping[str, str], total: int | None) -> None:
        """Note what the server says about the version that is coming."""
        wanted = {"etag": "ETag", "last-modified": "Last-Modified"}
        said = {wanted[name.lower()]: str(value) for name, value in headers.items() if name.lower() in wanted}
        write_whole(self._said_of_part, json.dumps({"URL": shown(self.url), "Size": total, **said}).encode())

    def finish(self) -> None:
        """The part is the whole file now."""
        # In this order: a file with older validators is only downloaded once more.
        os.replace(self.part, self.file)
        os.replace(self._said_of_part, self._said)

    def finish_if_whole(self) -> None:
        """Do that when an earlier process received everything and ended before it could."""
        if self.arrived and _read(self._said_of_part).get("Size") == str(self.arrived):
            self.finish()

    def forget_part(self) -> None:
        removed(self.part)
        removed(self._said_of_part)

    def forget(self) -> None:
        self.forget_part()
        removed(self._said)
        removed(self.file)


def _read(path: Path) -> dict[str, str]:
    """What the server said; nothing when that was lost."""
    try:
        return {name: str(value) for name, value in json.loads(path.read_text()).items()}
    except (FileNotFoundError, ValueError):
        return {}
