"""What can go wrong with a registry; importing this does not bring the HTTP client along."""

from __future__ import annotations

import json

from tartlet.errors import UserError
from tartlet.image.format.reference import ImageName

PREVIEW = 1000
"""Characters of an unexpected answer that an error shows."""

PROXY_LOGIN = "the proxy wants to know who asks: write USER:PASSWORD@ before its name in `https_proxy`"

_HINTS = {
    407: PROXY_LOGIN,
    413: "a proxy in front of the registry takes no bodies of this size; try `--chunk-size`",
    429: "the registry limits how much one may ask; wait, or log in to get a higher limit",
}


class RegistryError(UserError):
    """A registry answered something else than was to be expected."""

    def __init__(
        self, method: str, url: str, status: int, body: bytes = b"", *, retry_after: float | None = None
    ) -> None:
        self.told = _told(body)
        """What it says about that."""
        super().__init__(f"the registry answered {method} {url} with {status}{': ' + self.told if self.told else ''}")
        self.hint = _HINTS.get(status)
        if status == 400 and url.startswith("http:") and "HTTPS" in self.told:  # as Go's and nginx's servers say it
            self.hint = "leave out --insecure: the registry speaks HTTPS"
        self.method, self.url, self.status = method, url, status
        self.retry_after = retry_after
        """Seconds that the registry asks to wait."""

    @property
    def gist(self) -> str:
        return f"{self.status} {self.told}"


class NotInRegistry(RegistryError):
    """The registry does not have what was asked for (404)."""


class ImageNotInRegistry(UserError):
    """There is no image of that name."""

    def __init__(self, name: ImageName, answer: NotInRegistry) -> None:
        told = f": {answer.told}" if answer.told else ""
        super().__init__(
            f"the registry has no image {name}{told}",
            f"check the name; registries also hide images that one has to log in for: tart login {name.host}",
        )


class BadRegistryHost(UserError):
    """A text that is no registry's host."""

    def __init__(self, host: str) -> None:
        hint = "leave out the scheme" if "://" in host else "a registry is a host name with an optional port"
        super().__init__(f"{host!r} is no registry", hint)
        self.host = host


class BadProxy(UserError):
    """The environment names a proxy that cannot be used."""

    def __init__(self, scheme: str) -> None:
        """What is shown of it is its scheme only: the rest may hold a password."""
        kind = f"a {scheme} proxy" if scheme else "a proxy whose name makes no sense"
        super().__init__(
            f"the environment asks for {kind}, which cannot be used",
            "name an HTTP proxy in `https_proxy` and `http_proxy`, or the registry in `no_proxy`",
        )


class AuthenticationFailed(UserError):
    """The registry, or its token server, does not accept who asks."""


class BadAnswer(UserError):
    """An answer that breaks the protocol."""


def _told(body: bytes) -> str:
    """What the answer says: the messages of the distribution-spec's error document, else its start."""
    try:
        errors = json.loads(body)["errors"]
        lines = [f"{one.get('code', '')} {one.get('message', '')}".strip() for one in errors]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        lines = [" ".join(body.decode(errors="replace").split())]
    return "; ".join(line for line in lines if line)[:PREVIEW]
