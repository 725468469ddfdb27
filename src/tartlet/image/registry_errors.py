"""What can go wrong with a registry; importing this does not bring the HTTP client along."""

from __future__ import annotations

import json
import os

from tartlet.errors import UserError

PREVIEW = 1000
"""Characters of an unexpected answer that an error shows."""

_HINTS = {
    401: "log in with `tart login`, or set TART_REGISTRY_USERNAME and TART_REGISTRY_PASSWORD",
    403: "the account may not do this; check its permissions, or log in as another with `tart login`",
    413: "a proxy in front of the registry takes no bodies of this size; try `--chunk-size`",
    429: "the registry limits how much one may ask; wait, or log in to get a higher limit",
}


class RegistryError(UserError):
    """A registry answered something else than was to be expected."""

    def __init__(
        self, method: str, url: str, status: int, body: bytes = b"", *, retry_after: float | None = None
    ) -> None:
        told = _told(body)
        super().__init__(f"the registry answered {method} {url} with {status}{': ' + told if told else ''}")
        self.hint = _HINTS.get(status)
        self.method, self.url, self.status = method, url, status
        self.retry_after = retry_after
        """Seconds that the registry asks to wait."""


class NotInRegistry(RegistryError):
    """The registry does not have what was asked for (404)."""


class BadRegistryHost(UserError):
    """A text that is no registry's host."""

    def __init__(self, host: str) -> None:
        hint = "leave out the scheme" if "://" in host else "a registry is a host name with an optional port"
        super().__init__(f"{host!r} is no registry", hint)
        self.host = host


class RegistryUnreachable(UserError):
    """No answer at all: no connection, no name, no valid certificate, or the connection broke."""

    def __init__(self, url: str, cause: BaseException) -> None:
        reason = str(cause)
        super().__init__(f"cannot reach {url}: {_why(cause)}", "check the registry's name and port, and the network")
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            self.hint = "name its certificate authority in SSL_CERT_FILE"
        elif "record layer" in reason.lower() or "WRONG_VERSION_NUMBER" in reason:
            self.hint = "the registry speaks plain HTTP; use --insecure if you trust the network"
        self.url = url


class AuthenticationFailed(UserError):
    """The registry, or its token server, does not accept who asks."""


class BadAnswer(UserError):
    """An answer that breaks the protocol."""


def _why(cause: BaseException) -> str:
    """What the system says where it said something; what the HTTP library makes of that has no news for a user."""
    import socket
    import ssl

    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    system: object = getattr(cause, "os_error", None)
    if isinstance(system, socket.gaierror):
        return system.strerror or str(system)
    if isinstance(system, OSError) and not isinstance(system, ssl.SSLError) and system.errno:
        return os.strerror(system.errno)
    return str(cause) or type(cause).__name__


def _told(body: bytes) -> str:
    """What the answer says: the messages of the distribution-spec's error document, else its start."""
    try:
        errors = json.loads(body)["errors"]
        lines = [f"{one.get('code', '')} {one.get('message', '')}".strip() for one in errors]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        lines = [" ".join(body.decode(errors="replace").split())]
    return "; ".join(line for line in lines if line)[:PREVIEW]
