"""Bearer tokens: what a token server answers, how long it holds, and one shared store of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import msgspec

from tartlet.errors import UserError
from tartlet.image.registry.challenge import Challenge

_DEFAULT_LIFE = 60.0
_RENEW_BEFORE = 10.0
"""Seconds before its end at which a token counts as used up; at most a tenth of its life."""


class BadToken(UserError):
    """A token server's answer holds no token."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token. Its text is a secret and never printed."""

    text: str
    life: float
    """Seconds from its receipt until it ends; not positive when it was dead on arrival."""

    received: float
    """When it came, on the clock of `time.monotonic`."""

    def __repr__(self) -> str:
        return f"Token(life={self.life}, received={self.received})"

    def is_valid(self, now: float | None = None) -> bool:
        """Whether it can be used for a request that starts at `now` (`time.monotonic`)."""
        age = (time.monotonic() if now is None else now) - self.received
        return age < self.life - min(_RENEW_BEFORE, self.life / 10)


def read_token(body: bytes, *, server_date: str | None = None) -> Token:
    """The token in a token server's answer; `server_date` is that answer's `Date` header. Raises BadToken.

    Its life counts from the receipt, shortened by the age it already had on the server's own clock: a clock that is
    wrong on this host then kills no token.
    """
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadToken("the registry's token server did not answer with JSON") from exc
    if not isinstance(answer, dict):
        raise BadToken("the registry's token server did not answer with a JSON object")
    fields: dict[str, Any] = {str(key): value for key, value in answer.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    text = fields.get("token") or fields.get("access_token")
    if not isinstance(text, str):
        raise BadToken("the registry's token server sent no token")
    life = _seconds(fields.get("expires_in"))
    age = _now(server_date) - _instant(fields.get("issued_at"), otherwise=_now(server_date))
    return Token(text, life - max(0.0, age), time.monotonic())


class TokenStore:
    """Tokens by what they are for. Tasks that need the same one at the same time share one request for it."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str | None, str | None], Token] = {}
        self._locks: dict[tuple[str, str | None, str | None], anyio.Lock] = {}

    async def get(
        self, challenge: Challenge, fetch: Callable[[], Awaitable[Token]], *, rejected: str | None = None
    ) -> Token:
        """A token that answers `challenge`, fetched unless a valid one is there.

        `rejected` is the text of a token that the registry did not accept: that one is not given again.
        """
        key = (challenge.realm, challenge.service, challenge.scope)
        async with self._locks.setdefault(key, anyio.Lock()):
            token = self._tokens.get(key)
            if token is None or not token.is_valid() or token.text == rejected:
                token = self._tokens[key] = await fetch()
            return token


def _seconds(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _DEFAULT_LIFE
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    return _DEFAULT_LIFE


def _now(server_date: str | None) -> float:
    if server_date:
        try:
            return parsedate_to_datetime(server_date).timestamp()
        except ValueError:
            pass
    return time.time()


def _instant(value: object, *, otherwise: float) -> float:
    """An RFC 3339 time, with or without a fraction, in seconds since 1970."""
    if not isinstance(value, str):
        return otherwise
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return otherwise
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
