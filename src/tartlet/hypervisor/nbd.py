"""URLs of network block devices (NBD project, doc/uri.md) as QEMU's client."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from tartlet.errors import UserError

_PORT = 10809
_SECONDS = 30
"""How long a server may take to answer before the VM is not started."""


class BadUrl(UserError):
    """A network disk that is not written as one."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url} is not an address of a network block device: {reason}")
        self.hint = "write it as nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH"


class CertificatesMissing(UserError):
    """An encrypted network disk, but nothing to check its server with."""

    def __init__(self, url: str, folders: list[Path]) -> None:
        super().__init__(f"{url} is encrypted, and no ca-cert.pem to check its server with was found")
        self.hint = f"put the certificate of its authority at {folders[0] / 'ca-cert.pem'}"


def client(url: str, credentials_id: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """The NBD client node for `url`, and words that have to come before it.

    Raises BadUrl, CertificatesMissing.
    """
    parts = urlsplit(url)
    server = _unix_server(url, parts) if parts.scheme.endswith("+unix") else _inet_server(url, parts)
    node: dict[str, object] = {"driver": "nbd", "server": server, "open-timeout": _SECONDS}
    export = unquote(parts.path.removeprefix("/"))
    if export:
        node["export"] = export
    if not parts.scheme.startswith("nbds"):
        return node, ()
    node["tls-creds"] = credentials_id
    if parts.scheme.endswith("+unix"):
        # A path is no name that a certificate could hold.
        node["tls-hostname"] = parse_qs(parts.query).get("tls-hostname", ["localhost"])[0]
    folder = _certificates(url)
    escaped = str(folder).replace(",", ",,")
    return node, ("-object", f"tls-creds-x509,id={credentials_id},endpoint=client,dir={escaped}")


def certificate_folders() -> list[Path]:
    """Where the authority's certificate for encrypted network disks is looked for, the user's own first."""
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [Path(own, "tartlet/nbd"), Path("/etc/pki/qemu")]


def _inet_server(url: str, parts: SplitResult) -> dict[str, str]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise BadUrl(url, str(exc)) from exc
    if not host:
        raise BadUrl(url, "the host is missing")
    return {"type": "inet", "host": host, "port": str(port or _PORT)}


def _unix_server(url: str, parts: SplitResult) -> dict[str, str]:
    socket = parse_qs(parts.query).get("socket")
    if not socket:
        raise BadUrl(url, "the socket is missing")
    return {"type": "unix", "path": socket[0]}


def _certificates(url: str) -> Path:
    folders = certificate_folders()
    for folder in folders:
        if (folder / "ca-cert.pem").is_file():
            return folder
    raise CertificatesMissing(url, folders)
