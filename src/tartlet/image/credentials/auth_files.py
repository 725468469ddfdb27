"""Credentials that `docker login` and `podman login` left: in their files, and with their helper programs.

Sources: docker/cli's documentation of config.json and of credential helpers; containers-auth.json(5).
"""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import anyio

from tartlet.errors import FileTrouble, ToolFailed, ToolMissing, UserError
from tartlet.image.credentials.helper_process import answer_of
from tartlet.image.credentials.secret import Credentials

HELPER_SECONDS = 60.0
"""How long a helper program may take; some ask the user."""

_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
_HUB_KEY = "https://index.docker.io/v1/"
_NOT_FOUND = "credentials not found"
_IDENTITY = "<token>"
"""What a helper gives as user name when its secret is a refresh token."""

Document = Mapping[str, Any]
Warn = Callable[[str], None]


class BadAuthFile(UserError):
    """An auth file that cannot be read."""


async def find(host: str, namespace: str, environment: Mapping[str, str], warn: Warn) -> Credentials | None:
    """The credentials of the first file that has some for `host`. A file that is broken is reported and passed over."""
    for path in files(environment):
        try:
            document = read(path)
            credentials = await in_document(document, host, namespace, environment) if document else None
        except UserError as exc:
            warn(f"no credentials for {host} from {path}: {exc}")
            continue
        if credentials:
            return credentials
    return None


def files(environment: Mapping[str, str]) -> list[str]:
    """The auth files in the order in which they are asked, whether they exist or not."""
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    found = [docker_file(environment)]
    if environment.get("REGISTRY_AUTH_FILE"):
        found.append(environment["REGISTRY_AUTH_FILE"])
    if environment.get("XDG_RUNTIME_DIR"):
        found.append(os.path.join(environment["XDG_RUNTIME_DIR"], "containers", "auth.json"))
    return [*found, os.path.join(config, "containers", "auth.json")]


def docker_file(environment: Mapping[str, str]) -> str:
    """Docker's file: in `DOCKER_CONFIG`, else in `~/.docker`."""
    home = environment.get("HOME") or os.path.expanduser("~")
    return os.path.join(environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")


def read(path: str) -> Document | None:
    """The content of an auth file; None when there is none. Raises BadAuthFile, FileTrouble."""
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    except (ValueError, RecursionError) as exc:
        raise BadAuthFile("it is not valid JSON") from exc
    if not isinstance(document, dict):
        raise BadAuthFile("it is not a JSON object")
    return cast("Document", document)


async def in_document(
    document: Document, host: str, namespace: str, environment: Mapping[str, str]
) -> Credentials | None:
    """What an auth file says about a registry. Raises UserError when a helper fails."""
    auths = table(document, "auths")
    for key in keys(host, namespace):
        if credentials := _from_entry(auths.get(key)):
            return credentials
    helper = configured_helper(document, host)
    if helper and (credentials := await ask_helper(helper, own_key(host), environment)):
        return credentials
    for pattern, entry in auths.items():
        if "*" in pattern and fnmatch.fnmatchcase(host, _bare(pattern)):
            return _from_entry(entry)
    return None


def configured_helper(document: Document, host: str) -> str | None:
    """The helper program that keeps a registry's credentials: its own, else the common one."""
    store = document.get("credsStore")
    return helper_for(host, table(document, "credHelpers")) or (store if isinstance(store, str) and store else None)


def helper_for(host: str, helpers: Document) -> str | None:
    """The helper of a registry: an entry of exactly its name, else the first whose pattern matches the whole name.

    Patterns are regular expressions; one that is none may be a wildcard (`*.example.com`).
    """
    exact = helpers.get(host)
    if isinstance(exact, str):
        return exact
    for pattern, helper in helpers.items():
        if isinstance(helper, str) and _matches(pattern, host):
            return helper
    return None


async def ask_helper(suffix: str, host: str, environment: Mapping[str, str]) -> Credentials | None:
    """What `docker-credential-SUFFIX` knows about a registry; None when it says that it knows nothing.

    Raises ToolMissing, ToolFailed, BadAuthFile.
    """
    stdout = await tell_helper(suffix, "get", f"{host}\n", environment)
    return None if stdout is None else _from_answer(f"docker-credential-{suffix}", stdout)


async def tell_helper(suffix: str, verb: str, stdin: str, environment: Mapping[str, str]) -> bytes | None:
    """What `docker-credential-SUFFIX` answers to `get`, `store` or `erase`; None when it has nothing for that registry.

    Raises ToolMissing, ToolFailed; neither shows what was asked or answered.
    """
    program = f"docker-credential-{suffix}"
    found = None if "/" in suffix else shutil.which(program, path=environment.get("PATH"))
    if not found:
        raise ToolMissing(program, f"install {program}, or remove it from the auth file")
    try:
        with anyio.fail_after(HELPER_SECONDS):
            done = await answer_of([found, verb], stdin.encode(), environment)
    except TimeoutError:
        raise ToolFailed([program], -1, f"no answer within {HELPER_SECONDS:.0f} s") from None
    except OSError as exc:
        raise ToolFailed([program], -1, exc.strerror or str(exc)) from exc
    if done.returncode and _NOT_FOUND in (done.stdout + done.stderr).decode(errors="replace").lower():
        return None
    if done.returncode:
        unheard = f"exit status {done.returncode}; `{program} list` may tell why"  # what it prints may be a secret
        raise ToolFailed([program], done.returncode, done.stderr.decode(errors="replace").strip() or unheard)
    return done.stdout


def _from_answer(program: str, stdout: bytes) -> Credentials | None:
    try:
        answer = json.loads(stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadAuthFile(f"{program} did not answer with a user name and a secret") from None
    if not (isinstance(username, str) and isinstance(secret, str)):
        raise BadAuthFile(f"{program} did not answer with a user name and a secret")
    if username == _IDENTITY:
        return Credentials("", "", secret)
    return Credentials(username, secret)


def _from_entry(entry: object) -> Credentials | None:
    if not isinstance(entry, dict):
        return None
    fields = cast("Document", entry)
    token = fields.get("identitytoken")
    identity = token if isinstance(token, str) else ""
    username, colon, password = _decoded(fields.get("auth")).partition(":")
    if colon:
        return Credentials(username, password.rstrip("\0"), identity)
    return Credentials("", "", identity) if identity else None


def _decoded(auth: object) -> str:
    if not isinstance(auth, str):
        return ""
    try:
        return base64.b64decode(auth, validate=True).decode()
    except ValueError:
        return ""


def own_key(host: str) -> str:
    """The name under which `docker login` keeps the credentials of a registry."""
    return _HUB_KEY if host in _DOCKER_HUB else host


def keys(host: str, namespace: str = "") -> Iterator[str]:
    """The names under which an entry for a registry may stand; Podman's may name a part of it and then win."""
    parts = namespace.split("/") if namespace else []
    for count in range(len(parts), 0, -1):
        yield "/".join((host, *parts[:count]))
    yield host
    yield from (f"https://{host}", f"https://{host}/", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}")
    if host in _DOCKER_HUB:
        yield _HUB_KEY
        yield from _DOCKER_HUB


def _bare(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").split("/", 1)[0]


def _matches(pattern: str, host: str) -> bool:
    try:
        return re.fullmatch(pattern, host) is not None
    except re.error:
        return fnmatch.fnmatchcase(host, pattern)


def table(document: Document, key: str) -> Document:
    """The JSON object under `key`, empty when there is none."""
    value = document.get(key)
    return cast("Document", value) if isinstance(value, dict) else {}
