"""Proving to a registry who asks."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import anyio
from yarl import URL

from tartlet.image.credentials.secret import Credentials
from tartlet.image.credentials.sources import PASSWORD, USERNAME, CredentialSources
from tartlet.image.registry.addresses import shown, with_query
from tartlet.image.registry.challenge import Challenge, preferred
from tartlet.image.registry.errors import AuthenticationFailed, RegistryError
from tartlet.image.registry.pace import read_retry_after
from tartlet.image.registry.tokens import Token, TokenStore, read_token
from tartlet.image.registry.transport import FAILURES, RETRIED, Attempts, Transport


class Authorizer:
    """Makes the `Authorization` header for one repository of a registry.

    It learns from the registry's challenges what is wanted, and then has a token ready before each request: a long
    transfer never starts with one that is about to end.
    """

    def __init__(
        self, transport: Transport, tokens: TokenStore, sources: CredentialSources, host: str, namespace: str
    ) -> None:
        self._transport, self._tokens, self._sources = transport, tokens, sources
        self._host, self._namespace = host, namespace
        self._challenge: Challenge | None = None
        self._credentials: Credentials | None = None
        self._source = ""
        self._asked_sources, self._asking = False, anyio.Lock()

    @property
    def hint(self) -> str:
        """What the user can do when the registry does not let in who asks."""
        if not self._credentials:
            return f"log in with `tart login {self._host}`, or set {USERNAME} and {PASSWORD}"
        who = self._credentials.username or "the owner of a token"
        where = f" from the {self._source}" if self._source else ""
        return f"it was asked as {who}{where}; check that password, and what the account may do"

    async def header(self) -> str | None:
        """What to send with the next request; None as long as the registry has asked for nothing."""
        return None if self._challenge is None else await self._answer(self._challenge, rejected=None)

    async def challenged(self, headers: list[str], rejected: str | None) -> str | None:
        """What to send instead of `rejected`, after an answer 401 with these `WWW-Authenticate` headers.

        None when there is nothing else to send. Raises BadChallenge, AuthenticationFailed.
        """
        challenge = preferred(headers)
        answer = await self._answer(challenge, rejected=rejected)
        self._challenge = challenge  # one that cannot be answered is of no use for the next request
        return answer

    async def _answer(self, challenge: Challenge, *, rejected: str | None) -> str | None:
        if challenge.scheme == "basic":
            credentials = await self._who()
            header = credentials.basic() if credentials and not credentials.identity_token else None
            return None if header == rejected else header
        old = rejected.removeprefix("Bearer ") if rejected else None
        token = await self._tokens.get(challenge, lambda: self._fetch(challenge), rejected=old)
        return f"Bearer {token.text}"

    async def _who(self) -> Credentials | None:
        async with self._asking:  # some sources start a program, or show a dialog
            if not self._asked_sources:
                self._source, self._credentials = await self._sources.first(self._host, self._namespace) or ("", None)
                self._asked_sources = True
        return self._credentials

    async def _fetch(self, challenge: Challenge) -> Token:
        realm = URL(challenge.realm, encoded=True)
        if realm.scheme not in ("http", "https") or not realm.host:
            raise AuthenticationFailed(f"the registry's token server has no address: {challenge.realm!r}")
        credentials = await self._who()
        wanted = [(name, challenge.directives[name]) for name in ("scope", "service") if name in challenge.directives]
        if credentials and credentials.identity_token:
            fields = {
                "grant_type": "refresh_token",
                "client_id": "tartlet",
                "refresh_token": credentials.identity_token,
            }
            return await self._ask("POST", realm, {}, urlencode({**dict(wanted), **fields}).encode())
        headers = {"Authorization": credentials.basic()} if credentials else {}
        url = with_query(realm, urlencode(wanted)) if wanted else realm
        return await self._ask("GET", url, headers, None)

    async def _ask(self, method: str, url: URL, headers: Mapping[str, str], form: bytes | None) -> Token:
        attempts = Attempts(self._transport, url)
        if form is not None:
            headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        while True:
            try:
                async with self._transport.small(method, url, headers=headers, body=form) as response:
                    body = await response.read()
                    if response.status == 200:
                        return read_token(body, server_date=response.headers.get("Date"))
                    if response.status not in RETRIED:
                        raise self._failure(url, response.status, body)
                    wait = read_retry_after(response.headers.get("Retry-After"))
                    raise RegistryError(method, shown(url), response.status, body, retry_after=wait)
            except FAILURES as exc:
                await attempts.failed(exc)

    def _failure(self, url: URL, status: int, body: bytes) -> AuthenticationFailed:
        who = f" to {self._credentials.username}" if self._credentials and self._credentials.username else ""
        told = " ".join(body.decode(errors="replace").split())[:1000]
        return AuthenticationFailed(
            f"{shown(url)} gives no token{who} for {self._host}: {status}{' ' + told if told else ''}",
            self.hint,
        )
