"""Keeping credentials in Docker's file, for machines without a keyring."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from tartlet.errors import ToolFailed
from tartlet.host.files import write_whole
from tartlet.host.trouble import trouble_writing
from tartlet.image.credentials import auth_files
from tartlet.image.credentials.auth_files import BadAuthFile
from tartlet.image.credentials.secret import Credentials

log = logging.getLogger(__name__)


async def store(host: str, credentials: Credentials, environment: Mapping[str, str]) -> str:
    """Keep the credentials of a registry where `docker login` does, readable for the user only; returns the place.

    With a helper program configured for that registry the secret goes there. Raises FileTrouble, BadAuthFile,
    ToolMissing, ToolFailed.
    """
    path = _place(environment)
    document = _read(path)
    helper, key = auth_files.configured_helper(document, host), auth_files.own_key(host)
    if helper:
        secret = {"ServerURL": key, "Username": credentials.username, "Secret": credentials.password}
        await auth_files.tell_helper(helper, "store", json.dumps(secret), environment)
        return f"docker-credential-{helper}"
    entry = {"auth": credentials.basic().removeprefix("Basic ")}
    document["auths"] = {**auth_files.table(document, "auths"), key: entry}
    _save(path, document)
    return path


async def forget(host: str, environment: Mapping[str, str]) -> bool:
    """Remove the credentials of a registry from Docker's file or helper; whether there were any. Raises as storing."""
    path = _place(environment)
    document = _read(path)
    helper = auth_files.configured_helper(document, host)
    if helper:
        try:
            await auth_files.tell_helper(helper, "erase", auth_files.own_key(host), environment)
        except ToolFailed as exc:
            log.debug("docker-credential-%s erased nothing: %s", helper, exc)
    auths = dict(auth_files.table(document, "auths"))
    there = [key for key in auth_files.keys(host) if key in auths]
    if not there:
        return helper is not None
    for key in there:
        del auths[key]
    document["auths"] = auths
    _save(path, document)
    return True


def _place(environment: Mapping[str, str]) -> str:
    """Docker's file itself, where its name is a link to it."""
    return os.path.realpath(auth_files.docker_file(environment))


def _read(path: str) -> dict[str, object]:
    try:
        return dict(auth_files.read(path) or {})
    except BadAuthFile as exc:
        raise BadAuthFile(f"{path} cannot be changed: {exc}", "mend that file, or move it away") from exc


def _save(path: str, document: Mapping[str, object]) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_whole(Path(path), json.dumps(document, indent="\t").encode() + b"\n", mode=0o600)
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
