"""The system's keyring (Secret Service, KWallet, the Keychain) as a place for registry credentials.

The keyring is asked by a child process with a deadline, because a locked one may want to show a dialog, which in an
SSH session nobody sees: the call then never returns and cannot be cancelled within a process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

import anyio

from tartlet.errors import UserError
from tartlet.image.credentials.helper_process import answer_of
from tartlet.image.credentials.secret import Credentials

LOOKUP_SECONDS = 10.0
"""How long a keyring may take to answer. A person who has to unlock it does that at `login`, which waits longer."""

LOGIN_SECONDS = 120.0
_CHILD = "tartlet.image.credentials.keyring_child"


class KeyringUnavailable(UserError):
    """There is no keyring, or it is locked."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the system keyring cannot be used: {reason}",
            "unlock it, set TART_REGISTRY_USERNAME and TART_REGISTRY_PASSWORD, or use `tart login --store docker`",
        )


def is_there(environment: Mapping[str, str]) -> bool:
    """Whether it makes sense to ask at all: without a session bus there is no keyring on Linux."""
    if sys.platform != "linux" or "PYTHON_KEYRING_BACKEND" in environment:
        return True
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    return bool(environment.get("DBUS_SESSION_BUS_ADDRESS")) or os.path.exists(os.path.join(runtime, "bus"))


def check_is_there(environment: Mapping[str, str]) -> None:
    """Raises KeyringUnavailable when there is certainly none; whether one is locked is only found out by asking."""
    if not is_there(environment):
        raise KeyringUnavailable("this session has none")


async def find(host: str, environment: Mapping[str, str]) -> Credentials | None:
    """The stored credentials of a registry; None when there are none, or no keyring. Raises KeyringUnavailable."""
    if not is_there(environment):
        return None
    answer = await _asked({"do": "get", "host": host}, environment, LOOKUP_SECONDS)
    if "username" not in answer:
        return None
    return Credentials(answer["username"], answer["password"])


async def store(host: str, credentials: Credentials, environment: Mapping[str, str]) -> None:
    """Keep the credentials of a registry, replacing older ones. Raises KeyringUnavailable."""
    check_is_there(environment)
    secret = {"username": credentials.username, "password": credentials.password}
    answer = await _asked({"do": "set", "host": host, **secret}, environment, LOGIN_SECONDS)
    if "missing" in answer:
        raise KeyringUnavailable("this session has none")


async def forget(host: str, environment: Mapping[str, str]) -> None:
    """Remove the credentials of a registry, if there are any, or a keyring at all. Raises KeyringUnavailable."""
    if is_there(environment):
        await _asked({"do": "delete", "host": host}, environment, LOGIN_SECONDS)


async def _asked(request: dict[str, str], environment: Mapping[str, str], seconds: float) -> dict[str, str]:
    words = [sys.executable, "-m", _CHILD]
    try:
        with anyio.fail_after(seconds):
            done = await answer_of(words, json.dumps(request).encode(), environment)
    except TimeoutError:
        raise KeyringUnavailable("it is locked, or does not answer") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise KeyringUnavailable(f"its helper ended with status {done.returncode}") from None
    if "trouble" in answer:
        raise KeyringUnavailable(answer["trouble"])
    return {str(key): str(value) for key, value in answer.items()}
