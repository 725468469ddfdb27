"""Blobs into a registry: what is there already is not sent, the rest goes in one request or in chunks."""

from __future__ import annotations

from contextlib import suppress

import aiohttp
from yarl import URL

from tartlet.image.format.manifest import Descriptor
from tartlet.image.registry.addresses import resolve, shown, with_query
from tartlet.image.registry.bodies import BlobBytes
from tartlet.image.registry.errors import AuthenticationFailed, BadAnswer, NotInRegistry, RegistryError
from tartlet.image.registry.quirks import chunk_size as allowed_chunk_size
from tartlet.image.registry.registry import Repository
from tartlet.image.registry.transport import FAILURES, Attempts, Body

_NO_SUCH_PLACE = (
    "many registries take lower-case names only; some want the repository, or its project, to be made first"
)

_OCTETS = {"Content-Type": "application/octet-stream"}


async def push_blob(
    repository: Repository, blob: Descriptor, data: BlobBytes, *, chunk_size: int = 0, mount_from: str | None = None
) -> int:
    """Have a blob in the repository; returns the bytes that had to be sent for it.

    `chunk_size` bytes a request, 0 for all of them; `mount_from` names another repository of the same registry that has
    the blob. Raises as `Repository` does.
    """
    attempts = Attempts(repository.transport, repository.url("blobs/uploads/"))
    pieces = allowed_chunk_size(repository.base.host or "", chunk_size)
    while True:
        if await repository.has_blob(blob.digest):
            return 0
        try:
            async with repository.transport.pace.slot():
                sent = await _uploaded(repository, blob, data, pieces, mount_from)
        except FAILURES as exc:
            await attempts.failed(_mendable(exc))
        else:
            repository.transport.pace.succeeded()
            return sent


async def mount_blob(repository: Repository, digest: str, mount_from: str) -> bool:
    """Have a blob of the repository `mount_from` of the same registry in this one; False when that cannot be.

    Raises as `Repository` does.
    """
    attempts = Attempts(repository.transport, repository.url("blobs/uploads/"))
    while True:
        try:
            location, _ = await _begun(repository, digest, mount_from)
            if location is not None:  # an ordinary upload has begun instead, which nobody wants
                with suppress(*FAILURES):
                    async with repository.answer("DELETE", location, expected={204}):
                        pass
        except FAILURES as exc:
            await attempts.failed(exc)
        else:
            return location is None


async def _uploaded(
    repository: Repository,
    blob: Descriptor,
    data: BlobBytes,
    chunk_size: int,
    mount_from: str | None,
) -> int:
    """One attempt. An upload has a state in the registry: after a failure it starts anew, with a new one."""
    location, smallest = await _begun(repository, blob.digest, mount_from)
    if location is None:
        return 0
    at, chunk = 0, max(chunk_size, smallest) if chunk_size else 0
    while chunk and blob.size - at > chunk:
        location = await _chunk(repository, location, data, at, at + chunk)
        at += chunk
    headers = dict(_OCTETS)
    if chunk:
        headers["Content-Range"] = _range(at, blob.size)
    url, body = with_query(location, f"digest={blob.digest}"), _body(data, at, blob.size)
    try:
        async with repository.answer(
            "PUT", url, expected={201, 202} if chunk else {201}, headers=headers, body=body, size=blob.size - at
        ):
            return blob.size
    except RegistryError as exc:
        if exc.status in (404, 405) and not chunk:
            exc.hint = "this registry may not take a blob in one request; try `--chunk-size`"
        raise


async def _begun(repository: Repository, digest: str, mount_from: str | None) -> tuple[URL | None, int]:
    """The place of a new upload and the smallest chunk it takes; no place when the blob was mounted instead."""
    url = repository.url("blobs/uploads/")
    if mount_from and mount_from != repository.namespace:
        mounting = with_query(url, f"mount={digest}&from={mount_from}")
        # Some registries refuse instead of going on with an ordinary upload, or give no token for the other repository.
        with suppress(RegistryError, AuthenticationFailed):
            async with repository.answer("POST", mounting, expected={201, 202}) as response:
                if response.status == 201:
                    return None, 0
                return _location(url, response), _smallest(response)
    try:
        async with repository.answer("POST", url, expected={202}) as response:
            return _location(url, response), _smallest(response)
    except NotInRegistry as exc:
        exc.hint = _NO_SUCH_PLACE
        raise


async def _chunk(repository: Repository, location: URL, data: BlobBytes, start: int, end: int) -> URL:
    headers = {**_OCTETS, "Content-Range": _range(start, end)}
    async with repository.answer(
        "PATCH",
        location,
        expected={201, 202},
        headers=headers,
        body=_body(data, start, end),
        size=end - start,
    ) as response:
        return _location(location, response)


def _mendable(failure: BaseException) -> BaseException:
    """The failure; as one of the connection when another upload helps although the registry's answer says no.

    It may have forgotten the upload, for example because it was started anew, or have received other bytes than were
    sent: ours are those that the digest was computed from.
    """
    if isinstance(failure, RegistryError):
        if failure.status == 404 and "BLOB_UPLOAD_UNKNOWN" in str(failure):
            return ConnectionResetError("the registry forgot the upload")
        if failure.status == 400 and "DIGEST_INVALID" in str(failure):
            return ConnectionResetError("the registry received other bytes than were sent")
    return failure


def _body(data: BlobBytes, start: int, end: int) -> Body:
    return lambda: data(start, end)


def _range(start: int, end: int) -> str:
    """The range of a chunk, without a unit and with both ends in it."""
    return f"{start}-{end - 1}"


def _location(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise BadAnswer(f"{shown(url)} does not say where to send the blob")
    return resolve(url, location)


def _smallest(response: aiohttp.ClientResponse) -> int:
    told = response.headers.get("OCI-Chunk-Min-Length", "")
    return int(told) if told.isdecimal() else 0
