"""Getting to a registry at all: names, ports, certificates and proxies, and what is said when that fails."""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from registries import Fault, Front, front
from tartlet.image.format.manifest import Descriptor, digest_of
from tartlet.image.registry.bodies import from_bytes
from tartlet.image.registry.errors import BadAnswer, BadProxy, NotInRegistry, RegistryError
from tartlet.image.registry.registry import opened
from tartlet.image.registry.unreachable import RegistryUnreachable
from tartlet.image.registry.upload import push_blob
from tunnels import tunnel

FOX = b"The quick brown fox jumps over the lazy dog"
BLOB = Descriptor(media_type="application/octet-stream", size=len(FOX), digest=digest_of(FOX))

pytestmark = pytest.mark.usefixtures("no_waiting")


@asynccontextmanager
async def over_tls(registry_host: str, certificates: Path, name: str = "ours") -> AsyncGenerator[Front]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    async with front(registry_host, tls) as state:
        yield state


async def refused(host: str, *, insecure: bool = False, **environment: str) -> tuple[str, str | None]:
    """What is said of a registry that cannot be reached, and the hint."""
    async with opened(insecure=insecure, environment=environment) as registries:
        with pytest.raises(RegistryUnreachable) as failure:
            await registries.repository(host, "a").ping()
    return str(failure.value), failure.value.hint


async def test_nobody_listens() -> None:
    assert await refused("127.0.0.1:1") == (
        "cannot reach https://127.0.0.1:1/v2/: Connection refused",
        "check the registry's name and port, and the network",
    )


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError(113, "Connect call failed ('10.0.0.1', 443)"), "No route to host"),
    ],
)
def test_what_the_system_says_is_what_the_user_reads(cause: OSError, why: str) -> None:
    key = ConnectionKey("reg.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
    told = RegistryUnreachable("https://reg.example/v2/", aiohttp.ClientConnectorError(key, cause))
    assert str(told) == f"cannot reach https://reg.example/v2/: {why}"


async def test_plain_http_is_recognised_behind_https(registry_host: str) -> None:
    told, hint = await refused(registry_host)
    assert told == f"cannot reach https://{registry_host}/v2/: it does not speak TLS"
    assert "--insecure" in str(hint)


async def test_https_is_recognised_behind_plain_http(registry_host: str, certificates: Path) -> None:
    async with over_tls(registry_host, certificates) as before:
        told, hint = await refused(before.host, insecure=True)
    assert told == f"cannot reach http://{before.host}/v2/: it ended the connection without an answer"
    assert hint == "leave out --insecure if the registry speaks HTTPS"


async def test_a_registry_with_a_certificate_of_its_own(registry_host: str, certificates: Path) -> None:
    ours = str(certificates / "ours.pem")
    async with (
        over_tls(registry_host, certificates) as before,
        opened(environment={}, ca_file=ours) as registries,
    ):
        repository = registries.repository(before.host, f"tests/vm-{os.urandom(6).hex()}")
        elsewhere = {"Location": f"http://{before.host}/v2/x"}
        before.faults.append(Fault("POST", "/blobs/uploads/", status=202, headers=elsewhere))
        with pytest.raises(NotInRegistry):  # the place it named, reached over TLS all the same
            await push_blob(repository, BLOB, from_bytes(FOX))
        await push_blob(repository, BLOB, from_bytes(FOX))
        assert await repository.read_blob(BLOB) == FOX
        before.faults.append(Fault("GET", "/blobs/", status=307, headers={"Location": f"http://{registry_host}/x"}))
        with pytest.raises(BadAnswer, match="from HTTPS to plain HTTP"):
            await repository.read_blob(BLOB)


async def test_a_certificate_that_nobody_vouches_for(
    registry_host: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_tls(registry_host, certificates) as before:
        told, hint = await refused(before.host)
        assert (
            told == f"cannot reach https://{before.host}/v2/: its certificate is not trusted: self-signed certificate"
        )
        assert hint == "name its certificate authority in SSL_CERT_FILE"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ours.pem"))
        async with opened(environment={}) as registries:
            await registries.repository(before.host, "a").ping()
        monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
        assert (await refused(before.host))[1] == "SSL_CERT_FILE names /no/such/file, which cannot be read"
        assert len(before.seen) == 1


async def test_a_certificate_for_another_name(
    registry_host: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "other.pem"))
    async with over_tls(registry_host, certificates, "other") as before:
        told, hint = await refused(before.host)
    assert "certificate is not valid for '127.0.0.1'" in told
    assert hint == "use the name that the certificate is for"


async def test_plain_requests_go_through_the_proxy_of_the_environment(before: Front) -> None:
    """The front is the proxy of a registry whose name nobody knows."""
    async with opened(insecure=True, environment={"http_proxy": before.host}) as registries:
        repository = registries.repository("registry.invalid:5000", f"tests/vm-{os.urandom(6).hex()}")
        assert not await repository.has_blob(BLOB.digest)
        before.faults.append(Fault("GET", "/manifests/", status=407))
        with pytest.raises(RegistryError, match="407") as wanted:
            await repository.manifest("latest")
    assert "USER:PASSWORD@" in str(wanted.value.hint)
    assert before.seen[0].headers["Host"] == "registry.invalid:5000"


async def test_tls_goes_through_the_proxy_and_stays_closed_to_it(
    registry_host: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "other.pem"))
    async with over_tls(registry_host, certificates, "other") as before, tunnel(before.host) as proxy:
        proxy.password = "Basic " + base64.b64encode(b"carol:pr0xy").decode()
        through = {"https_proxy": f"http://carol:pr0xy@{proxy.host}"}
        async with opened(environment=through) as registries:
            repository = registries.repository("registry.example:5000", f"tests/vm-{os.urandom(6).hex()}")
            await push_blob(repository, BLOB, from_bytes(FOX))
            assert await repository.read_blob(BLOB) == FOX
        assert set(proxy.asked) == {"registry.example:5000"}
        told, hint = await refused("registry.example:5000", https_proxy=f"http://carol:wr0ng@{proxy.host}")
    assert told.endswith(f"through the proxy http://{proxy.host}: the proxy answered 407")
    assert "USER:PASSWORD@" in str(hint)
    assert "wr0ng" not in told


async def test_a_proxy_that_is_not_there(registry_host: str) -> None:
    told, hint = await refused(registry_host, insecure=True, http_proxy="127.0.0.1:1")
    assert told == f"cannot reach http://{registry_host}/v2/ through the proxy http://127.0.0.1:1: Connection refused"
    assert "no_proxy" in str(hint)
    spared = {"http_proxy": "127.0.0.1:1", "no_proxy": "127.0.0.1"}
    async with opened(insecure=True, environment=spared) as registries:
        await registries.repository(registry_host, "a").ping()


@pytest.mark.parametrize("proxy", ["socks5://user:s3cret@127.0.0.1:1080", "http://", "http://a:b:c", "h:port"])
async def test_a_proxy_that_cannot_be_used(registry_host: str, proxy: str) -> None:
    async with opened(insecure=True, environment={"http_proxy": proxy}) as registries:
        with pytest.raises(BadProxy) as wrong:
            await registries.repository(registry_host, "a").ping()
    assert "s3cret" not in f"{wrong.value} {wrong.value.hint}"
    assert ("socks5" in str(wrong.value)) == proxy.startswith("socks5")
