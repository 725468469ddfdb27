"""`tart login` and `tart logout`: keeping the credentials of a registry where the next command finds them."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping

from tartlet.errors import UserError
from tartlet.image.credentials import docker_login, keyring_store
from tartlet.image.credentials.secret import Credentials
from tartlet.image.credentials.sources import CredentialSources
from tartlet.image.registry.addresses import api_of
from tartlet.image.registry.errors import AuthenticationFailed, RegistryError


class CredentialStore(enum.StrEnum):
    """Where credentials are kept."""

    KEYRING = "keyring"
    """The system's: Secret Service, KWallet, the Keychain."""
    DOCKER = "docker"
    """Docker's file, or the helper program that it names; other programs use these credentials too."""


class InvalidCredentials(UserError):
    """The registry does not accept them, or they cannot be any."""

    def __init__(self, host: str, cause: str) -> None:
        super().__init__(
            f"invalid credentials for {host}: {cause}",
            "check user name and password; many registries want an access token in the place of the password",
        )


def check_store(store: CredentialStore, environment: Mapping[str, str] = os.environ) -> None:
    """Raises KeyringUnavailable when `store` cannot keep anything, as far as that is known before asking it."""
    if store is CredentialStore.KEYRING:
        keyring_store.check_is_there(environment)


async def log_in(
    host: str,
    credentials: Credentials,
    *,
    store: CredentialStore = CredentialStore.KEYRING,
    validate: bool = True,
    insecure: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """Keep the credentials of the registry `host` (with its port), replacing older ones.

    Gives the source of other credentials that are used instead, in words for the user, or None.

    `validate`: only if the registry accepts them, asked over plain HTTP when `insecure`. Raises BadRegistryHost,
    InvalidCredentials, KeyringUnavailable, RegistryUnreachable, RegistryError; for Docker's store FileTrouble,
    BadAuthFile, ToolMissing, ToolFailed.
    """
    words = dict(os.environ) if environment is None else environment
    api_of(host, insecure=insecure)
    _check(host, credentials)
    check_store(store, words)
    if validate:
        await _ask(host, credentials, words, insecure=insecure)
    if store is CredentialStore.KEYRING:
        await keyring_store.store(host, credentials, words)
    else:
        await docker_login.store(host, credentials, words)
    used = await CredentialSources(environment=words).first(host)
    return used[0] if used and used[1] != credentials else None


async def log_out(
    host: str, *, store: CredentialStore = CredentialStore.KEYRING, environment: Mapping[str, str] | None = None
) -> str | None:
    """Remove the credentials of a registry; that there are none is fine.

    Gives the source that still has some, in words for the user, or None. Raises KeyringUnavailable when it is locked;
    for Docker's store FileTrouble, BadAuthFile, ToolMissing, ToolFailed.
    """
    words = dict(os.environ) if environment is None else environment
    if store is CredentialStore.KEYRING:
        await keyring_store.forget(host, words)
    else:
        await docker_login.forget(host, words)
    left = await CredentialSources(environment=words).first(host)
    return left[0] if left else None


def _check(host: str, credentials: Credentials) -> None:
    if not credentials.username or not credentials.password:
        raise InvalidCredentials(host, f"the {'password' if credentials.username else 'user name'} is empty")
    if ":" in credentials.username:  # RFC 7617: it would end there
        raise InvalidCredentials(host, "a user name cannot hold a colon")


async def _ask(host: str, credentials: Credentials, environment: Mapping[str, str], *, insecure: bool) -> None:
    from tartlet.image.registry.registry import opened

    sources = CredentialSources(environment=environment, only=credentials)
    async with opened(insecure=insecure, credentials=sources, environment=environment) as registries:
        try:
            await registries.repository(host, "").ping()
        except AuthenticationFailed as exc:
            raise InvalidCredentials(host, str(exc)) from exc
        except RegistryError as exc:
            if exc.status not in (401, 403):
                raise
            raise InvalidCredentials(host, str(exc)) from exc
