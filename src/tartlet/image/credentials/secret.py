"""A user name and a password, made so that they cannot slip into a log."""

from __future__ import annotations

import base64
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks a registry. Printing it shows no secret."""

    username: str
    password: str
    identity_token: str = ""
    """A refresh token to use instead of the password (what `docker login` stores for some registries)."""

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, ...)"

    def basic(self) -> str:
        """The value of an `Authorization` header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
