"""How a registry says that it wants to know who asks (RFC 9110 §11.6.1, and the token flow of Docker's registry)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tartlet.errors import UserError


class BadChallenge(UserError):
    """A registry asked for authentication in a way that is not understood."""

    def __init__(self, header: str) -> None:
        super().__init__(f"the registry asks for authentication in an unknown way: {header[:200]!r}")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate: `basic` or `bearer`, with the directives that came along, their names in lower case."""

    scheme: str
    directives: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def realm(self) -> str:
        """Where a bearer token is to be had."""
        return self.directives.get("realm", "")

    @property
    def service(self) -> str | None:
        return self.directives.get("service")

    @property
    def scope(self) -> str | None:
        """What the token has to allow: `repository:org/image:pull,push`."""
        return self.directives.get("scope")


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges in the values of `WWW-Authenticate` headers. Raises BadChallenge when one is malformed."""
    found: list[Challenge] = []
    for header in headers:
        directives: dict[str, str] | None = None
        for item in _items(header):
            scheme, rest = _scheme(item)
            if scheme:
                directives = {}
                found.append(Challenge(scheme.lower(), directives))
            if directives is None:
                raise BadChallenge(header)
            key, value = _directive(rest, header)
            directives[key] = value
    return found


def preferred(headers: Iterable[str]) -> Challenge:
    """The challenge to answer: a token rather than a password with every request. Raises BadChallenge."""
    values = list(headers)
    challenges = parse_challenges(values)
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme and (scheme == "basic" or challenge.realm):
                return challenge
    raise BadChallenge(", ".join(values))


def _scheme(item: str) -> tuple[str, str]:
    """The scheme that begins here, empty when the item continues the one before; and the directive."""
    word, blank, rest = item.partition(" ")
    rest = rest.strip()
    if blank and "=" not in word and not rest.startswith("="):
        return word, rest
    return "", item


def _directive(item: str, header: str) -> tuple[str, str]:
    key, _, value = (part.strip() for part in item.partition("="))
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = _unescaped(value[1:-1])
    if not key or not value:
        raise BadChallenge(header)
    return key.lower(), value


def _items(header: str) -> list[str]:
    """What commas outside of quotes part, without blanks around it; empty items are none."""
    items: list[str] = []
    current, quoted, escaped = "", False, False
    for character in header:
        if character == "," and not quoted:
            items.append(current)
            current = ""
            continue
        current += character
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
    items.append(current)
    return [item.strip() for item in items if item.strip()]


def _unescaped(text: str) -> str:
    out, escaped = "", False
    for character in text:
        if character == "\\" and not escaped:
            escaped = True
        else:
            out += character
            escaped = False
    return out
