"""Who gets to see the page: whoever follows a link, once, and has the cookie that was given for it from then on.

A cookie does not know ports: another server on 127.0.0.1 would be sent it. So each session has a path of its own, which
nobody can guess, and its cookie is sent to that path only.
"""

from __future__ import annotations

import enum
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

LINK_LIFE = 3600.0
"""Seconds in which a link can be followed."""
_BYTES = 24
"""Random bytes of a token: nobody guesses 192 bits."""


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that may use the page."""

    path: str
    """The folder of the session's addresses, without slashes."""
    cookie: str
    """The secret it has to show."""


class Refusal(enum.Enum):
    """Why a link opens nothing."""

    USED = enum.auto()
    """It was followed before, is too old, or never was one."""
    SOMEBODY_ELSE = enum.auto()
    """It is for another user of this machine."""


@dataclass(frozen=True, slots=True)
class _Link:
    until: float
    only: int | None


class Gate:
    """The links that have been given out, and the sessions they became."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._links: dict[str, _Link] = {}
        self._sessions: dict[str, Session] = {}

    def new_token(self, *, only: int | None = None) -> str:
        """A token that opens the page once; with `only` for programs of this user (and of root) alone."""
        now = self._clock()
        self._links = {token: link for token, link in self._links.items() if link.until > now}
        token = secrets.token_urlsafe(_BYTES)
        self._links[token] = _Link(now + LINK_LIFE, only)
        return token

    def enter(self, token: str, user: Callable[[], int | None]) -> Session | Refusal:
        """Exchange a token for a session; `user` tells whose program brings it, where that matters."""
        link = self._links.get(token)
        if link is None or link.until <= self._clock():
            return Refusal.USED
        if link.only is not None and user() not in (link.only, 0):
            return Refusal.SOMEBODY_ELSE
        del self._links[token]
        session = Session(secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES))
        self._sessions[session.path] = session
        return session

    def admits(self, path: str, cookie: str | None) -> bool:
        """Whether a request for something below `path` shows the cookie that belongs to it."""
        session = self._sessions.get(path)
        return session is not None and secrets.compare_digest(session.cookie.encode(), (cookie or "").encode())
