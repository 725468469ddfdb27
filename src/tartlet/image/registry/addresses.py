"""Addresses in HTTP: where answers lead, through which proxy, and how to show them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from yarl import URL

from tartlet.image.registry.errors import BadAnswer, BadProxy, BadRegistryHost
from tartlet.image.registry.quirks import http_host

log = logging.getLogger(__name__)

_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]+")


def api_of(host: str, *, insecure: bool) -> URL:
    """The address of a registry's API, ending in `/v2/`, from its host as typed. Raises BadRegistryHost."""
    try:
        base = URL(f"{'http' if insecure else 'https'}://{http_host(host)}/v2/", encoded=True)
        if base.host and base.port is not None and _HOST.fullmatch(host):
            return base
    except ValueError:
        log.debug("%r is no host", host)
    raise BadRegistryHost(host)


def resolve(base: URL, location: str) -> URL:
    """Where a `Location` leads, relative or absolute, not re-encoded: upload states hold escaped characters.

    A registry behind a TLS proxy may believe that it is spoken to over plain HTTP; on the same host that is mended.
    Raises BadAnswer.
    """
    try:
        target = base.join(URL(location, encoded=True))
        host = target.host
    except ValueError as exc:
        raise BadAnswer(f"{shown(base)} leads to an address that is none") from exc
    if target.scheme not in ("http", "https") or not host:
        raise BadAnswer(f"{shown(base)} leads to an address that is not HTTP")
    if base.scheme == "https" and target.scheme == "http":
        if host != base.host or target.explicit_port not in (None, 80, base.port):
            raise BadAnswer(f"{shown(base)} leads from HTTPS to plain HTTP")
        secure = str(target).replace("http:", "https:", 1)
        target = URL(secure, encoded=True).with_port(base.explicit_port)
    return target


def with_query(url: URL, text: str) -> URL:
    """`url` with `text` added to its query as it is, the rest untouched."""
    words = str(url)
    return URL(f"{words}{'&' if '?' in words else '?'}{text}", encoded=True)


def proxy_for(url: URL, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for an address: `https_proxy`, `http_proxy`, `all_proxy`, but `no_proxy`.

    Lower case wins over upper case, and a proxy without a scheme is an HTTP proxy, as in curl. Raises BadProxy.
    """

    def value(name: str) -> str:
        return environment.get(name) or environment.get(name.upper(), "")

    if any(_spares(entry, url) for entry in value("no_proxy").replace(",", " ").split()):
        return None
    proxy = value(f"{url.scheme}_proxy") or value("all_proxy")
    return _proxy(proxy) if proxy else None


def _spares(entry: str, url: URL) -> bool:
    """Whether an entry of `no_proxy` is for an address: a name and those below it, an IP address or network, a port."""
    host, port = url.host or "", str(url.port)
    name, _, only_port = entry.rpartition(":")
    is_bare_ipv6 = ":" in name and not name.endswith("]")
    if is_bare_ipv6 or not only_port.isdecimal():
        name, only_port = entry, port
    name = name.strip("[]").removeprefix("*").lstrip(".").lower()
    return only_port == port and (not name or host == name or host.endswith(f".{name}") or _is_within(host, name))


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _proxy(text: str) -> str:
    try:
        proxy = URL(text if "://" in text else f"http://{text}")
        if proxy.scheme in ("http", "https") and proxy.host and proxy.port:
            return str(proxy)
    except ValueError:
        log.debug("a proxy of the environment is no address")
    raise BadProxy(text.partition("://")[0] if "://" in text else "")


def shown(url: URL) -> str:
    """`url` for people: without user, query and fragment, which may hold secrets."""
    return str(url.with_user(None).with_query(None).with_fragment(None)) if url.absolute else url.path
