"""Where user names and passwords for registries come from, in this order: the environment, the files and helper
programs of Docker and Podman, the system's keyring. The first that knows the registry wins; one that fails is
reported and passed over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tartlet.errors import UserError
from tartlet.image.credentials import auth_files, keyring_store
from tartlet.image.credentials.secret import Credentials

log = logging.getLogger(__name__)

USERNAME, PASSWORD = "TART_REGISTRY_USERNAME", "TART_REGISTRY_PASSWORD"
"""Variables that name who asks any registry, or only the one in `TART_REGISTRY_HOSTNAME`."""

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSources:
    """Looks up the credentials for a registry: a value that knows the environment and whom to tell about failures."""

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    warn: Warn = log.warning
    """Gets one line for each source that failed. No line ever holds a secret."""
    only: Credentials | None = None
    """Use these, and ask no source at all."""

    async def first(self, host: str, namespace: str = "") -> tuple[str, Credentials] | None:
        """What to tell the registry `host` (with its port) about who asks for `namespace`; None means nobody.

        Before it the source that knows it, in words for the user.
        """
        if self.only:
            return "", self.only
        sources: tuple[tuple[str, Callable[[], Awaitable[Credentials | None]]], ...] = (
            ("environment", lambda: from_environment(host, self.environment)),
            ("Docker and Podman files", lambda: auth_files.find(host, namespace, self.environment, self.warn)),
            ("system keyring", lambda: keyring_store.find(host, self.environment)),
        )
        for name, look_up in sources:
            try:
                credentials = await look_up()
            except UserError as exc:
                self.warn(f"no credentials for {host} from the {name}: {exc}")
                continue
            if credentials:
                log.debug("credentials for %s come from the %s", host, name)
                return name, credentials
        return None


async def from_environment(host: str, environment: Mapping[str, str]) -> Credentials | None:
    """`TART_REGISTRY_USERNAME` and `_PASSWORD`, if both are set; only for `TART_REGISTRY_HOSTNAME` if that is set."""
    only = environment.get("TART_REGISTRY_HOSTNAME")
    username = environment.get(USERNAME)
    password = environment.get(PASSWORD)
    if username is None or password is None or only not in (None, host):
        return None
    return Credentials(username, password)
