"""Files from the web, kept and checked: a download that breaks off goes on where it stopped, now or next time.

Ranges and validators are those of RFC 9110, sections 8.8, 13 and 14.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from tartlet.build.checksum import Checksum, verify
from tartlet.build.download_cache import Kept, file_name, shown
from tartlet.build.folders import made_folder
from tartlet.build.progress import Progress, Report, silent
from tartlet.errors import InvalidArgument, UserError
from tartlet.host.trouble import trouble_writing

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Times a transfer is tried that brings nothing new; one that brought something starts the count again."""
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; doubled each time."""
_SILENCE = 60
"""Seconds without a byte after which a connection counts as dead."""
_PIECE = 1024 * 1024


class DownloadFailed(UserError):
    """The server refuses, or cannot be reached after several attempts."""

    def __init__(self, url: str, why: str, *, final: bool = True) -> None:
        super().__init__(
            f"cannot download {shown(url)}: {why}", "what has arrived is kept; try again to go on from there"
        )
        self.final = final
        """No further attempt can help."""


class _Stale(Exception):
    """The part on disk is of another version of the file."""


def is_address(text: str) -> bool:
    """Whether that is something to download rather than a path."""
    return text.startswith(("http://", "https://"))


async def downloaded(
    url: str,
    *,
    cache: Path,
    checksum: Checksum | None = None,
    ask: bool = True,
    report: Report = silent,
    pause: float = FIRST_PAUSE,
) -> Path:
    """The file at an address, from `cache` when it is there unchanged; never change it.

    The server is asked each time whether the kept file is still the current one; when it does not answer, the kept
    one is used. With a `checksum` that the kept file meets, or without `ask`, nobody is asked. `pause` is the seconds
    before the second attempt. Raises DownloadFailed, ChecksumMismatch, InvalidArgument, FileTrouble.
    """
    if not is_address(url):
        raise InvalidArgument(f"{url!r} is no http:// or https:// address")
    kept = Kept(made_folder(cache), url)
    async with kept.alone(report):
        if checksum and kept.file.exists():
            try:
                await verify(kept.file, checksum, report)
            except UserError:
                log.debug("the kept %s is not the wanted one", url)
            else:
                return kept.file
        if not ask and kept.file.exists():
            return kept.file
        await _fetch_again_and_again(kept, report, pause)
        if checksum:
            await _verified(kept, checksum, report)
        return kept.file


async def _verified(kept: Kept, checksum: Checksum, report: Report) -> None:
    try:
        await verify(kept.file, checksum, report)
    except UserError:
        kept.forget()
        raise


async def _fetch_again_and_again(kept: Kept, report: Report, pause: float) -> None:
    attempt = 1
    while True:
        had = kept.arrived
        try:
            await _fetch(kept, report)
        except _Stale:
            kept.forget_part()
        except DownloadFailed as exc:
            if exc.final:
                raise
            attempt = 1 if kept.arrived > had else attempt + 1
            if attempt > ATTEMPTS:
                if kept.file.exists():
                    log.debug("using the kept %s: %s", kept.url, exc)
                    return
                raise
            log.debug("attempt %d for %s: %s", attempt, kept.url, exc)
            await anyio.sleep(pause * 2 ** (attempt - 1))
            continue
        else:
            return
        attempt += 1
        if attempt > ATTEMPTS:
            raise DownloadFailed(kept.url, "the file changes on the server while it is being downloaded")


async def _fetch(kept: Kept, report: Report) -> None:
    """One request: nothing to do, the whole file, or the rest of it. Raises DownloadFailed, _Stale, FileTrouble."""
    import aiohttp

    kept.finish_if_whole()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
            _answered(session, kept) as response,
        ):
            if response.status == 304:
                return
            await _receive(response, kept, report)
    except (aiohttp.TooManyRedirects, aiohttp.InvalidURL, aiohttp.ClientSSLError) as exc:
        raise DownloadFailed(kept.url, _reason(exc)) from exc
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise DownloadFailed(kept.url, _reason(exc), final=False) from exc
    kept.finish()


def _reason(exc: Exception) -> str:
    import aiohttp

    if isinstance(exc, aiohttp.TooManyRedirects):
        return "the server redirects in a circle"
    return str(exc) or type(exc).__name__


@asynccontextmanager
async def _answered(session: ClientSession, kept: Kept) -> AsyncGenerator[ClientResponse]:
    # Compression in transit would make byte ranges meaningless.
    headers = {"Accept-Encoding": "identity", **kept.conditions()}
    async with session.get(kept.url, headers=headers, max_redirects=10) as response:
        if response.status in (412, 416):
            raise _Stale
        if response.status not in (200, 206, 304):
            passing = response.status in (408, 429) or response.status >= 500
            raise DownloadFailed(kept.url, f"{response.status} {response.reason}", final=not passing)
        yield response


async def _receive(response: ClientResponse, kept: Kept, report: Report) -> None:
    start = _start_of(response, kept)
    length = response.content_length
    total = None if length is None else start + length
    stage = f"downloading {file_name(kept.url)}"
    kept.begin(dict(response.headers), total)
    _check_room(kept, length)
    try:
        with kept.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            async for piece in response.content.iter_chunked(_PIECE):
                done += await anyio.to_thread.run_sync(file.write, piece)
                report(Progress(stage, done, total))
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
    except OSError as exc:
        import aiohttp

        if isinstance(exc, aiohttp.ClientError | TimeoutError):
            raise
        raise trouble_writing(kept.part, exc) from exc
    if total is not None and done != total:
        raise DownloadFailed(kept.url, f"the connection ended after {done} of {total} bytes", final=False)


def _start_of(response: ClientResponse, kept: Kept) -> int:
    """The offset the server sends from. Raises _Stale when that is not where our part ends."""
    if response.status == 200:
        return 0
    told = response.headers.get("Content-Range", "")
    unit, _, rest = told.partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or not first.isdecimal() or int(first) != kept.arrived:
        raise _Stale
    return int(first)


def _check_room(kept: Kept, coming: int | None) -> None:
    free = shutil.disk_usage(kept.part.parent).free
    if coming is not None and coming > free:
        raise DownloadFailed(kept.url, f"{coming} bytes are still to come and {free} are free in {kept.part.parent}")
