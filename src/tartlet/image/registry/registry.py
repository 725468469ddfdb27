"""The client of a registry: manifests and blobs of one repository (OCI distribution-spec, spec.md)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import anyio
from yarl import URL

from tartlet.errors import UserError
from tartlet.image.credentials.sources import CredentialSources
from tartlet.image.format.manifest import MANIFEST, MAX_MANIFEST_SIZE, OTHER_MANIFESTS, Descriptor, digest_of
from tartlet.image.format.piece_writer import CorruptBlob
from tartlet.image.format.reference import is_digest
from tartlet.image.registry.addresses import api_of, shown
from tartlet.image.registry.bodies import one_part, whole
from tartlet.image.registry.errors import BadAnswer, NotInRegistry, RegistryError
from tartlet.image.registry.login import Authorizer
from tartlet.image.registry.pace import read_retry_after
from tartlet.image.registry.receive import Parts, parts_of
from tartlet.image.registry.tokens import TokenStore
from tartlet.image.registry.transport import BROKEN, FAILURES, Attempts, Body, Transport
from tartlet.image.registry.transport import opened as transport_opened

_PREVIEW_BYTES = 4096
_MOST_CHALLENGES = 2
_LARGEST_SMALL_BLOB = 64 * 1024 * 1024

_ASIDE_SECONDS = 5.0
"""Seconds that an answer is waited for which only makes a message better."""


class Registries:
    """Every registry that one command talks to: shared connections, tokens and limits."""

    def __init__(self, transport: Transport, sources: CredentialSources, *, insecure: bool) -> None:
        self.transport = transport
        self._sources, self._insecure = sources, insecure
        self._tokens = TokenStore()

    def repository(self, host: str, namespace: str, *, credentials: CredentialSources | None = None) -> Repository:
        """A repository by its registry's host as typed (with the port) and its name there.

        Raises BadRegistryHost.
        """
        base = api_of(host, insecure=self._insecure)
        sources = credentials or self._sources
        return Repository(
            self.transport, base, Authorizer(self.transport, self._tokens, sources, host, namespace), namespace
        )


@asynccontextmanager
async def opened(
    *,
    insecure: bool = False,
    at_once: int = 4,
    ca_file: str | None = None,
    credentials: CredentialSources | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Registries]:
    """Registries for the length of the block. `insecure`: plain HTTP. `at_once`: transfers at the same time."""
    async with transport_opened(at_once=at_once, ca_file=ca_file, environment=environment) as transport:
        sources = credentials or CredentialSources(environment=transport.environment)
        yield Registries(transport, sources, insecure=insecure)


class Repository:
    """One repository of a registry. Every method retries what another attempt may mend.

    All raise RegistryUnreachable, RegistryError, AuthenticationFailed, BadChallenge, BadAnswer.
    """

    def __init__(self, transport: Transport, base: URL, authorizer: Authorizer, namespace: str) -> None:
        self.transport, self.namespace = transport, namespace
        self.base = base
        """The address of the registry's API, ending in `/v2/`."""
        self._authorizer = authorizer

    def url(self, rest: str) -> URL:
        """An address inside this repository."""
        return URL(f"{self.base}{self.namespace}/{rest}", encoded=True)

    async def ping(self) -> None:
        """Ask the registry for nothing, which shows whether it is one and whether it accepts who asks."""
        await self.ask("GET", self.base, expected={200})

    async def manifest(self, reference: str) -> bytes:
        """The manifest under a tag or digest, byte for byte; a wrong one is fetched twice.

        Raises NotInRegistry, CorruptBlob.
        """
        url, headers, wrong, digest = self.url(f"manifests/{reference}"), {"Accept": MANIFEST}, "", ""
        for _ in range(2):
            reply = await self.ask("GET", url, expected={200}, headers=headers)
            digest = digest_of(reply.body)
            told = [reference, reply.headers.get("Docker-Content-Digest", "")]
            wrong = next((wanted for wanted in told if is_digest(wanted) and wanted != digest), "")
            if not wrong:
                return reply.body
        raise CorruptBlob(wrong, f"the registry sent a manifest with the digest {digest}")

    async def other_kind(self, reference: str) -> str | None:
        """The media type of what is under a tag or digest where `manifest` found nothing; None when nothing is.

        Asked once, on the side: a registry that does not answer soon, or not well, counts as one that has nothing.
        """
        url, headers = self.url(f"manifests/{reference}"), {"Accept": ", ".join(OTHER_MANIFESTS)}
        with suppress(*FAILURES, UserError), anyio.move_on_after(_ASIDE_SECONDS):
            async with self.answer("HEAD", url, expected={200}, headers=headers) as response:
                return response.headers.get("Content-Type", "unknown")
        return None

    async def put_manifest(self, reference: str, raw: bytes, media_type: str = MANIFEST) -> str:
        """Store a manifest under a tag or its digest; returns its digest."""
        url, headers = self.url(f"manifests/{reference}"), {"Content-Type": media_type}
        await self.ask("PUT", url, expected={201}, headers=headers, body=one_part(raw), size=len(raw))
        return digest_of(raw)

    async def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        return (await self.ask("HEAD", self.url(f"blobs/{digest}"), expected={200, 404})).status == 200

    async def read_blob(self, blob: Descriptor) -> bytes:
        """A small blob (config, NVRAM), checked; a wrong one is fetched twice. Raises NotInRegistry, CorruptBlob."""
        if blob.size > _LARGEST_SMALL_BLOB:
            raise BadAnswer(f"blob {blob.digest} is {blob.size} bytes long, too much for what it should be")
        data = b""
        for _ in range(2):
            data = b"".join([bytes(part) async for parts in self.stream_blob(blob) for part in parts])
            if len(data) == blob.size and digest_of(data) == blob.digest:
                return data
        raise CorruptBlob(blob.digest, f"the registry sent {len(data)} bytes with the digest {digest_of(data)}")

    async def stream_blob(self, blob: Descriptor, start: int = 0) -> AsyncGenerator[Parts]:
        """The bytes of a blob from `start` on, as they come; all of some parts is to be taken in before the next.

        A connection that breaks is replaced by one that goes on at the next byte, so what was given out stays valid.
        Nothing is verified here: the caller hashes anyway, and stops when it gets more than `blob.size` bytes.
        Close it (`contextlib.aclosing`) when it is not read to its end.
        """
        url, at = self.url(f"blobs/{blob.digest}"), start
        attempts = Attempts(self.transport, url)
        while at < blob.size:
            try:
                async with (
                    self.transport.pace.slot(),
                    self._download(url, at) as (response, skip),
                    aclosing(parts_of(response, skip)) as body,
                ):
                    async for parts in body:
                        yield parts
                        at += parts.size
                        attempts.progressed()
                if at < blob.size:
                    raise aiohttp.ClientPayloadError(f"{blob.size - at} bytes are missing")
                self.transport.pace.succeeded()
            except FAILURES as exc:
                await attempts.failed(exc)

    @asynccontextmanager
    async def _download(self, url: URL, start: int) -> AsyncGenerator[tuple[aiohttp.ClientResponse, int]]:
        """An answer with a blob, and how many bytes to leave out: a registry that knows no ranges starts anew."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self.answer("GET", url, expected={200, 206} if start else {200}, headers=headers) as response:
            wanted = f"bytes {start}-"
            if response.status == 206 and not response.headers.get("Content-Range", wanted).startswith(wanted):
                raise BadAnswer(f"{shown(url)} sent another range than was asked for")
            yield response, 0 if response.status == 206 else start

    async def ask(
        self,
        method: str,
        url: URL,
        *,
        expected: set[int],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        size: int = 0,
    ) -> Reply:
        """A short answer, read completely, with retries."""
        attempts = Attempts(self.transport, url)
        while True:
            try:
                async with self.answer(
                    method, url, expected=expected, headers=headers, body=body, size=size
                ) as response:
                    return Reply(response.status, response.headers, await whole(response, MAX_MANIFEST_SIZE))
            except FAILURES as exc:
                await attempts.failed(exc)

    @asynccontextmanager
    async def answer(
        self,
        method: str,
        url: URL,
        *,
        expected: set[int],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        size: int = 0,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """One of the `expected` answers, with authorization but without retries; `body` gives `size` bytes.

        Raises what is in `FAILURES`, for `Attempts.failed` to judge.
        """
        async with self._authorized(method, url, headers or {}, body, size) as response:
            if response.status not in expected:
                failure = await _unexpected(method, url, response)
                if failure.status in (401, 403):
                    failure.hint = self._authorizer.hint
                raise failure
            yield response

    @asynccontextmanager
    async def _authorized(
        self, method: str, url: URL, headers: Mapping[str, str], body: Body | None, size: int
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The answer to a request; after a challenge, that to its repetition.

        A second challenge is met too: with several tokens (to pull, to push) the other one may have ended as well.
        """
        ours = url.origin() == self.base.origin()  # an upload may lead elsewhere, where our token has no business
        sent = await self._authorizer.header() if ours else None
        for attempt in range(_MOST_CHALLENGES + 1):
            async with self.transport.once(method, url, headers=_with(headers, sent), body=body, size=size) as response:
                challenges = response.headers.getall("WWW-Authenticate", [])
                better = None
                is_challenge = response.status == 401 and challenges and response.url.origin() == self.base.origin()
                if is_challenge and ours and attempt < _MOST_CHALLENGES:
                    better = await self._authorizer.challenged(challenges, sent)
                if better is None:
                    yield response
                    return
            sent = better


@dataclass(frozen=True, slots=True)
class Reply:
    """A short answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _with(headers: Mapping[str, str], authorization: str | None) -> Mapping[str, str]:
    return {**headers, "Authorization": authorization} if authorization else headers


async def _unexpected(method: str, url: URL, response: aiohttp.ClientResponse) -> RegistryError:
    body = b""
    with suppress(*BROKEN):
        body = await response.content.read(_PREVIEW_BYTES)
    kind = NotInRegistry if response.status == 404 else RegistryError
    wait = read_retry_after(response.headers.get("Retry-After"))
    return kind(method, shown(url), response.status, body, retry_after=wait)
