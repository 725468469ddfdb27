"""The child process of `keyring_store`: one request as JSON on standard input, one answer on standard output."""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import keyring
from keyring.errors import KeyringError, NoKeyringError, PasswordDeleteError

SERVICE = "Tart Credentials"
"""Under this name entries stand in the keyring, one for each registry: its host is the account."""


def answer(request: dict[str, str]) -> dict[str, str]:
    """Do what is asked. The user name is part of the secret, so that one look-up by host finds both."""
    host = request["host"]
    if request["do"] == "set":
        secret = json.dumps({"username": request["username"], "password": request["password"]})
        keyring.set_password(SERVICE, host, secret)
        return {}
    if request["do"] == "delete":
        with suppress(PasswordDeleteError):  # there is none
            keyring.delete_password(SERVICE, host)
        return {}
    found = keyring.get_password(SERVICE, host)
    return json.loads(found) if found else {}


def main() -> None:
    """Answer one request."""
    try:
        reply = answer(json.load(sys.stdin))
    except NoKeyringError:
        reply = {"missing": "yes"}
    except KeyringError as exc:
        lines = str(exc).strip().splitlines()
        reply = {"trouble": lines[0] if lines else type(exc).__name__}
    json.dump(reply, sys.stdout)


if __name__ == "__main__":
    main()
