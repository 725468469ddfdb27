"""HTTP as registries need it: one pool of connections, redirects that leak nothing, retries, proxies, own roots.

Of aiohttp's comforts several are turned off: cookies (Harbor answers a returned session cookie by asking for a CSRF
token), decompression (byte ranges are meaningless then), redirects (storage back ends refuse requests that carry a
second authorization), `.netrc`.
"""

from __future__ import annotations

import logging
import os
import platform
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import anyio
from yarl import URL

from tartlet.image.registry.addresses import proxy_for, resolve, shown
from tartlet.image.registry.errors import BadAnswer, RegistryError
from tartlet.image.registry.pace import ATTEMPTS, LONGEST_RETRY_AFTER, Pace, delay_before
from tartlet.image.registry.unreachable import RegistryUnreachable, stays_so
from tartlet.version import __version__

log = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0
STALL_SECONDS = 60.0
"""Seconds without a byte in either direction after which a connection counts as dead."""

COMMIT_SECONDS = 600.0
"""Seconds that a registry may take to answer when it has all bytes of a blob: it hashes, and may copy them."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another attempt may change."""

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 10

BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError, ssl.SSLError)
"""What a connection that fails or breaks raises."""

FAILURES = (*BROKEN, RegistryError)
"""What `Attempts.failed` judges."""

Body = Callable[[], AsyncIterable[bytes | memoryview]]
"""Makes the bytes of a request anew for each attempt."""

USER_AGENT = f"Tartlet/{__version__} ({platform.system()} {platform.release()}; {platform.machine()})"


class Transport:
    """Sends requests; made by `opened`. Shared by all repositories of one command."""

    def __init__(self, session: aiohttp.ClientSession, pace: Pace, environment: Mapping[str, str]) -> None:
        self.pace = pace
        self.environment = environment
        self.answered: set[URL] = set()
        """Origins that have answered something."""
        self._session = session

    def proxy_for(self, url: URL) -> str | None:
        """The proxy that the environment names for an address. Raises BadProxy."""
        return proxy_for(url, self.environment)

    @asynccontextmanager
    async def once(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        body: Body | None = None,
        size: int = 0,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """One answer to one request; redirects are followed. `body` gives exactly `size` bytes.

        Raises whatever is in `BROKEN`, and BadAnswer.
        """
        headers = {**headers, "Accept-Encoding": "identity"}
        origin = url.origin()
        for _ in range(_MOST_REDIRECTS):
            async with self._sent(method, url, headers, body, size) as response:
                self.answered.add(url.origin())
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    yield response
                    return
                if body is not None and response.status not in (307, 308):
                    yield response
                    return
                target = resolve(url, response.headers["Location"])
            if target.origin() != origin:
                headers.pop("Authorization", None)
            url = target
        raise BadAnswer(f"{shown(url)} redirects without end")

    @asynccontextmanager
    async def small(
        self, method: str, url: URL, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The same with a body that is at hand, or none."""

        async def whole() -> AsyncGenerator[bytes]:
            yield body or b""

        async with self.once(method, url, headers=headers, body=whole if body else None, size=len(body or b"")) as told:
            yield told

    @asynccontextmanager
    async def _sent(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body | None, size: int
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        log.debug("%s %s", method, shown(url))
        sent = dict(headers)
        if body is not None or method in ("POST", "PUT", "PATCH"):
            sent["Content-Length"] = str(size)
        stalled = _Stall()
        data = stalled.watched(body()) if body is not None else None
        request = self._session.request(
            method,
            url,
            headers=sent,
            data=data,
            allow_redirects=False,
            proxy=self.proxy_for(url),
            timeout=_timeout(STALL_SECONDS if body is None else COMMIT_SECONDS),
        )
        async with stalled.answer(request) as response:
            yield response


class _Stall:
    """Ends a request whose body nobody takes any more: aiohttp only watches for the answer."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()

    async def watched(self, body: AsyncIterable[bytes | memoryview]) -> AsyncGenerator[bytes | memoryview]:
        async for part in body:
            self._scope.deadline = anyio.current_time() + STALL_SECONDS
            yield part
        self._scope.deadline = float("inf")

    @asynccontextmanager
    async def answer(self, request: aiohttp.client._RequestContextManager) -> AsyncGenerator[aiohttp.ClientResponse]:
        response: aiohttp.ClientResponse | None = None
        with self._scope:
            response = await request
        if response is None:
            raise TimeoutError
        async with response:
            yield response


@asynccontextmanager
async def opened(
    *, at_once: int = 4, ca_file: str | None = None, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Transport]:
    """A transport for the length of the block: at most `at_once` transfers at the same time.

    `ca_file` adds certificate authorities to those of the system and of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    """
    words = dict(os.environ) if environment is None else environment
    connector = aiohttp.TCPConnector(ssl=_context(ca_file), limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=1024 * 1024,
        headers={"User-Agent": USER_AGENT},
        skip_auto_headers={"Content-Type"},
    ) as session:
        yield Transport(session, Pace(at_once), words)


class Attempts:
    """Counts the attempts at one thing, and waits between them.

    Progress (bytes of a transfer) makes the count start again, so that a registry that drops every connection after a
    while still delivers.
    """

    def __init__(self, transport: Transport, url: URL) -> None:
        self._transport, self._url, self._failures = transport, url, 0

    def progressed(self) -> None:
        """Something came through."""
        self._failures = 0

    async def failed(self, cause: BaseException) -> None:
        """Wait after a failure that another attempt may mend.

        Raises `cause`, or RegistryUnreachable from it, when it may not, or when it was the last attempt.
        """
        last = self._failures + 1 >= ATTEMPTS
        if isinstance(cause, RegistryError):
            if cause.status in (429, 503):
                self._transport.pace.failed()
            if last or cause.status not in RETRIED or (cause.retry_after or 0) > LONGEST_RETRY_AFTER:
                raise cause
            await self._wait(cause.retry_after, cause)
            return
        self._transport.pace.failed()
        if last or stays_so(cause):
            proxy = self._transport.proxy_for(self._url)
            was_there = self._url.origin() in self._transport.answered
            through = shown(URL(proxy)) if proxy else None
            raise RegistryUnreachable(shown(self._url), cause, through, was_there=was_there) from cause
        await self._wait(None, cause)

    async def _wait(self, asked: float | None, why: object) -> None:
        delay = delay_before(self._failures, asked)
        self._failures += 1
        log.debug("attempt %d at %s failed (%s); next in %.1f s", self._failures, shown(self._url), why, delay)
        await anyio.sleep(delay)


def _timeout(read_seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds)


def _context(ca_file: str | None) -> ssl.SSLContext | bool:
    """What connections trust; True for aiohttp's own context: it is there already and trusts what the system does."""
    if not ca_file and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        return True
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context
