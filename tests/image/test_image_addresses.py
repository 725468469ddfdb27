from __future__ import annotations

import pytest
from yarl import URL

from tartlet.image.registry.addresses import proxy_for, resolve, shown, with_query
from tartlet.image.registry.errors import BadAnswer, RegistryError
from tartlet.image.registry.quirks import chunk_size, http_host

BASE = URL("https://example.com/v2/")


@pytest.mark.parametrize(
    ("base", "location", "target"),
    [
        ("https://example.com/v2/", "/v2/some/path?some=query", "https://example.com/v2/some/path?some=query"),
        (
            "https://example.com/v2/",
            "https://example.org/v2/some/path?some=query",
            "https://example.org/v2/some/path?some=query",
        ),
        (
            "https://h/v2/a/blobs/uploads/",
            "uuid?_state=a%2Bb%2f%3D",
            "https://h/v2/a/blobs/uploads/uuid?_state=a%2Bb%2f%3D",
        ),
        ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5000/x", "http://127.0.0.1:5000/x"),
        ("https://h/v2/", "http://h/v2/upload?a=%2B", "https://h/v2/upload?a=%2B"),
        ("https://h:8443/v2/", "http://h/v2/upload", "https://h:8443/v2/upload"),
        ("https://h:8443/v2/", "http://h:8443/v2/upload", "https://h:8443/v2/upload"),
        ("https://h/v2/", "//other/x", "https://other/x"),
    ],
)
def test_where_a_location_leads(base: str, location: str, target: str) -> None:
    assert str(resolve(URL(base), location)) == target


@pytest.mark.parametrize(
    "location",
    [
        "ftp://h/x",
        "file:///etc/passwd",
        "http://",
        "http://h:99999x/",
        "mailto:a@b",
        "http://other/x",
        "http://example.com:8080/x",
    ],
)
def test_a_location_that_leads_nowhere_is_refused(location: str) -> None:
    with pytest.raises(BadAnswer):
        resolve(BASE, location)


def test_a_query_is_added_without_touching_the_rest() -> None:
    assert str(with_query(URL("https://h/u?_state=a%2Bb", encoded=True), "digest=sha256:1")) == (
        "https://h/u?_state=a%2Bb&digest=sha256:1"
    )
    assert str(with_query(URL("https://h/u", encoded=True), "digest=sha256:1")) == "https://h/u?digest=sha256:1"


def test_what_is_shown_of_an_address_holds_no_secret() -> None:
    assert shown(URL("https://user:secret@h:5/v2/a?_state=secret#secret")) == "https://h:5/v2/a"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://ghcr.io/v2/", {}, None),
        ("https://ghcr.io/v2/", {"https_proxy": "http://p:3128"}, "http://p:3128"),
        ("https://ghcr.io/v2/", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://ghcr.io/v2/", {"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower"}, "http://lower"),
        ("https://ghcr.io/v2/", {"http_proxy": "http://p"}, None),
        ("http://ghcr.io/v2/", {"http_proxy": "http://p"}, "http://p"),
        ("http://ghcr.io/v2/", {"ALL_PROXY": "http://p"}, "http://p"),
        ("https://ghcr.io/v2/", {"https_proxy": "http://p", "no_proxy": "*"}, None),
        ("https://ghcr.io/v2/", {"https_proxy": "http://p", "no_proxy": "a.b, ghcr.io"}, None),
        ("https://pkg.ghcr.io/v2/", {"https_proxy": "http://p", "NO_PROXY": ".ghcr.io"}, None),
        ("https://pkg.ghcr.io/v2/", {"https_proxy": "http://p", "NO_PROXY": "*.ghcr.io"}, None),
        ("https://notghcr.io/v2/", {"https_proxy": "http://p", "no_proxy": "ghcr.io"}, "http://p"),
        ("http://127.0.0.1:5000/", {"http_proxy": "http://p", "no_proxy": "127.0.0.1:5000"}, None),
        ("http://127.0.0.1:5001/", {"http_proxy": "http://p", "no_proxy": "127.0.0.1:5000"}, "http://p"),
        ("http://10.1.2.3:5000/", {"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, None),
        ("http://11.1.2.3:5000/", {"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, "http://p"),
        ("http://registry:5000/", {"http_proxy": "http://p", "no_proxy": "10.0.0.0/8"}, "http://p"),
        ("http://[::1]:5000/", {"http_proxy": "http://p", "no_proxy": "::1"}, None),
        ("http://[::1]:5000/", {"http_proxy": "http://p", "no_proxy": "[::1]:5000"}, None),
        ("http://[::1]:5001/", {"http_proxy": "http://p", "no_proxy": "[::1]:5000"}, "http://p"),
        ("http://[fd00::2]/", {"http_proxy": "http://p", "no_proxy": "fd00::/8"}, None),
    ],
)
def test_the_proxy_comes_from_the_environment(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(URL(url), environment) == proxy


@pytest.mark.parametrize(
    ("host", "asked", "size"),
    [
        ("ghcr.io", 0, 0),
        ("ghcr.io", 100_000_000, 3_999_999),
        ("ghcr.io", 1_000_000, 1_000_000),
        ("gcr.io", 10_000_000, 0),
        ("eu.gcr.io", 10_000_000, 0),
        ("europe-docker.pkg.dev", 10_000_000, 0),
        ("123.dkr.ecr.eu-west-1.amazonaws.com", 1_000_000, 5_242_881),
        ("123.dkr.ecr.eu-west-1.amazonaws.com", 0, 0),
        ("127.0.0.1:5000", 7, 7),
    ],
)
def test_chunks_have_the_size_that_a_registry_takes(host: str, asked: int, size: int) -> None:
    assert chunk_size(host, asked) == size


def test_docker_hub_answers_at_another_host() -> None:
    assert http_host("docker.io") == http_host("index.docker.io") == "registry-1.docker.io"
    assert http_host("ghcr.io") == "ghcr.io"


def test_an_error_shows_what_the_registry_says_and_not_more() -> None:
    long = RegistryError("GET", "http://h/", 500, b"x" * 5000)
    assert len(str(long)) < 1100
    html = RegistryError("GET", "http://h/", 502, b"<html>\n  <h1>Bad</h1>")
    assert str(html).endswith("502: <html> <h1>Bad</h1>")
    assert str(RegistryError("GET", "http://h/", 404)) == "the registry answered GET http://h/ with 404"
    told = RegistryError("GET", "http://h/", 400, b"Client sent an HTTP request to an HTTPS server.\n")
    assert told.hint == "leave out --insecure: the registry speaks HTTPS"
    assert RegistryError("GET", "https://h/", 400, b"HTTPS").hint is None
    for odd in (b'{"errors":null}', b'{"errors":[1]}', b'{"errors":{}}', b"[]", b"\xff"):
        assert "with 400" in str(RegistryError("GET", "http://h/", 400, odd))
