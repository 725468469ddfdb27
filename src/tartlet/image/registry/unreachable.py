"""Why no answer came from a registry, in words for people; importing this does not bring the HTTP client along."""

from __future__ import annotations

import os
import socket
import ssl

from tartlet.errors import UserError
from tartlet.image.registry.errors import PROXY_LOGIN

_COMES_BACK = "it has answered before: do the same again when it is back, what came through so far is not lost"
_PLAIN_HTTP = "the registry speaks plain HTTP; use --insecure if you trust the network"
_OTHER_NAMES = {62, 64}
"""OpenSSL's numbers of "hostname mismatch" and "IP address mismatch" (x509_vfy.h)."""


class RegistryUnreachable(UserError):
    """No answer at all: no connection, no name, no valid certificate, or the connection broke."""

    def __init__(self, url: str, cause: BaseException, proxy: str | None = None, *, was_there: bool = False) -> None:
        """`url` and `proxy` are for people: without user, password and query. `was_there`: it has answered before."""
        through = f" through the proxy {proxy}" if proxy else ""
        hint = _COMES_BACK if was_there else _what_helps(url, cause, proxy)
        super().__init__(f"cannot reach {url}{through}: {_why(cause)}", hint)
        self.url, self._why = url, _why(cause)

    @property
    def gist(self) -> str:
        return self._why


def _why(cause: BaseException) -> str:
    """What the system says where it said something; what the HTTP library makes of that has no news for a user."""
    system = _system(cause)
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(system, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {system.verify_message.rstrip('.')}"
    if isinstance(system, ssl.SSLError):
        return "it does not speak TLS" if _speaks_no_tls(system) else f"TLS failed: {_reason(system)}"
    if isinstance(system, socket.gaierror):
        return system.strerror or str(system)
    if isinstance(system, OSError) and system.errno:
        return os.strerror(system.errno)
    if status := _status(cause):
        return f"the proxy answered {status}"
    if type(cause).__name__ == "ServerDisconnectedError":
        return "it ended the connection without an answer"
    return str(cause) or type(cause).__name__


def _what_helps(url: str, cause: BaseException, proxy: str | None) -> str:
    system = _system(cause)
    if isinstance(system, ssl.SSLCertVerificationError):
        return _trust(system)
    if isinstance(system, ssl.SSLError) and _speaks_no_tls(system):
        return _PLAIN_HTTP
    if _status(cause) == 407:
        return PROXY_LOGIN
    if proxy:
        return "check `https_proxy` and `http_proxy`, or name the registry in `no_proxy`"
    if url.startswith("http:") and type(cause).__name__ == "ServerDisconnectedError":
        return "leave out --insecure if the registry speaks HTTPS"
    return "check the registry's name and port, and the network"


def _trust(refused: ssl.SSLCertVerificationError) -> str:
    if refused.verify_code in _OTHER_NAMES:
        return "use the name that the certificate is for"
    file = os.environ.get("SSL_CERT_FILE")
    if file and not os.access(file, os.R_OK):
        return f"SSL_CERT_FILE names {file}, which cannot be read"
    return "name its certificate authority in SSL_CERT_FILE"


def stays_so(cause: BaseException) -> bool:
    """Whether another attempt is in vain: a wrong certificate, no TLS at all, no such name, a proxy that refuses."""
    system = _system(cause)
    return (
        isinstance(system, ssl.SSLCertVerificationError)
        or (isinstance(system, ssl.SSLError) and _speaks_no_tls(system))
        or (isinstance(system, socket.gaierror) and system.errno == socket.EAI_NONAME)
        or 300 <= _status(cause) < 500
    )


def _system(cause: BaseException) -> object:
    """What the system said, out of what the HTTP library has made of it."""
    for name in ("certificate_error", "os_error"):
        if (found := getattr(cause, name, None)) is not None:
            return found
    return cause


def _status(cause: BaseException) -> int:
    """What a proxy answered; 0 when it did not."""
    status: object = getattr(cause, "status", 0)
    return status if isinstance(status, int) else 0


def _speaks_no_tls(failure: ssl.SSLError) -> bool:
    return failure.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


def _reason(failure: ssl.SSLError) -> str:
    return (failure.reason or failure.strerror or str(failure)).replace("_", " ").lower()
