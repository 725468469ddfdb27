from __future__ import annotations

import base64
import json
import stat
import sys
from pathlib import Path

import anyio
import pytest

from tartlet.errors import ToolMissing
from tartlet.image.credentials import docker_login, keyring_store
from tartlet.image.credentials.auth_files import BadAuthFile, docker_file, helper_for
from tartlet.image.credentials.keyring_store import KeyringUnavailable
from tartlet.image.credentials.secret import Credentials
from tartlet.image.credentials.sources import CredentialSources

HELPERS = {"(.*).dkr.ecr.(.*).amazonaws.com": "ecr-login", "gcr.io": "gcloud"}


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


class Home:
    """A home folder with auth files and helper programs, and what the look-ups said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        (folder / "bin").mkdir()
        self.environment = {"HOME": str(folder), "PATH": f"{folder / 'bin'}:/usr/bin:/bin"}

    def file(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def docker(self, **content: object) -> None:
        self.file(".docker/config.json", content)

    def helper(self, name: str, script: str) -> None:
        path = self.folder / "bin" / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    async def find(self, host: str, namespace: str = "", **environment: str) -> Credentials | None:
        sources = CredentialSources(environment={**self.environment, **environment}, warn=self.warnings.append)
        found = await sources.first(host, namespace)
        return found[1] if found else None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


ANSWER = """read host; echo noise >&2; printf '{"Username":"u-%s","Secret":"s:%s"}' "$host" "$1" """


async def test_nobody_is_known(home: Home) -> None:
    assert await home.find("ghcr.io") is None
    assert home.warnings == []


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"TART_REGISTRY_USERNAME": "u", "TART_REGISTRY_PASSWORD": "p"}, Credentials("u", "p")),
        ({"TART_REGISTRY_USERNAME": "", "TART_REGISTRY_PASSWORD": ""}, Credentials("", "")),
        ({"TART_REGISTRY_USERNAME": "u"}, None),
        ({"TART_REGISTRY_PASSWORD": "p"}, None),
        (
            {"TART_REGISTRY_USERNAME": "u", "TART_REGISTRY_PASSWORD": "p", "TART_REGISTRY_HOSTNAME": "h:5000"},
            Credentials("u", "p"),
        ),
        ({"TART_REGISTRY_USERNAME": "u", "TART_REGISTRY_PASSWORD": "p", "TART_REGISTRY_HOSTNAME": "h"}, None),
        ({"TART_REGISTRY_USERNAME": "u", "TART_REGISTRY_PASSWORD": "p", "TART_REGISTRY_HOSTNAME": ""}, None),
    ],
)
async def test_the_environment(home: Home, variables: dict[str, str], found: Credentials | None) -> None:
    assert await home.find("h:5000", **variables) == found


async def test_the_environment_wins_over_files(home: Home) -> None:
    home.docker(auths={"h": auth("file", "p")})
    assert await home.find("h", TART_REGISTRY_USERNAME="env", TART_REGISTRY_PASSWORD="p") == Credentials("env", "p")
    assert await home.find("h") == Credentials("file", "p")


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("h", "h"),
        ("h:5000", "h:5000"),
        ("https://h", "h"),
        ("https://h/v2/", "h"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
        ("docker.io", "index.docker.io"),
        ("*.example.com", "reg.example.com"),
    ],
)
async def test_names_of_a_registry_in_a_file(home: Home, key: str, host: str) -> None:
    home.docker(auths={"other": auth("x", "y"), key: auth("u", "pass:with:colons")})
    assert await home.find(host) == Credentials("u", "pass:with:colons")
    assert await home.find("elsewhere") is None


async def test_podmans_files_and_parts_of_a_registry(home: Home, tmp_path: Path) -> None:
    home.file(".config/containers/auth.json", {"auths": {"h": auth("config", "p"), "h/team/vm": auth("part", "p")}})
    assert await home.find("h") == Credentials("config", "p")
    assert await home.find("h", "team/vm/ubuntu") == Credentials("part", "p")
    assert await home.find("h", "team/vmware") == Credentials("config", "p")
    home.file("run/containers/auth.json", {"auths": {"h": auth("run", "p")}})
    assert await home.find("h", XDG_RUNTIME_DIR=str(tmp_path / "run")) == Credentials("run", "p")
    named = home.file("named.json", {"auths": {"h": auth("named", "p")}})
    assert await home.find("h", REGISTRY_AUTH_FILE=str(named)) == Credentials("named", "p")
    home.file("dc/config.json", {"auths": {"h": auth("docker", "p")}})
    assert await home.find("h", DOCKER_CONFIG=str(tmp_path / "dc")) == Credentials("docker", "p")


@pytest.mark.parametrize(
    ("host", "helper"),
    [
        ("gcr.io", "gcloud"),
        ("123.dkr.ecr.eu-west-1.amazonaws.com", "ecr-login"),
        ("456.dkr.ecr.us-east-1.amazonaws.com", "ecr-login"),
        ("ghcr.io", None),
        ("gcrXio", "gcloud"),  # a pattern is a regular expression
        ("gcr.io.evil.com", None),
    ],
)
def test_helpers_are_chosen_by_pattern(host: str, helper: str | None) -> None:
    assert helper_for(host, HELPERS) == helper


def test_an_exact_helper_wins_and_wildcards_work() -> None:
    assert helper_for("gcr.io", {".*": "all", "gcr.io": "exact"}) == "exact"
    assert helper_for("a.example.com", {"*.example.com": "wild"}) == "wild"
    assert helper_for("a", {"(": "broken", "a": "a"}) == "a"


async def test_a_helper_answers(home: Home) -> None:
    home.docker(credHelpers={"h": "fine"}, auths={"h": {}})
    home.helper("fine", ANSWER)
    assert await home.find("h") == Credentials("u-h", "s:get")
    assert home.warnings == []


async def test_the_common_helper_answers_for_docker_hub(home: Home) -> None:
    home.docker(credsStore="fine", credHelpers={"x": "missing"})
    home.helper("fine", ANSWER)
    assert await home.find("docker.io") == Credentials("u-https://index.docker.io/v1/", "s:get")
    assert await home.find("h") == Credentials("u-h", "s:get")


async def test_a_helper_may_give_a_refresh_token(home: Home) -> None:
    home.docker(credsStore="token")
    home.helper("token", """printf '{"Username":"<token>","Secret":"refresh"}'""")
    assert await home.find("h") == Credentials("", "", "refresh")


@pytest.mark.parametrize(
    ("script", "warning"),
    [
        (None, "docker-credential-odd was not found"),
        ("echo hunter2; echo it broke >&2; exit 3", "it broke"),
        ("echo hunter2; exit 3", "exit status 3; `docker-credential-odd list` may tell why"),
        ("true", "did not answer"),
        ("echo '{}'", "did not answer"),
        ("echo '[1]'", "did not answer"),
        ("""echo '{"Username":1,"Secret":"hunter2"}'""", "did not answer"),
        ("echo 'credentials not found in native keychain'; exit 1", None),
    ],
)
async def test_a_helper_that_fails_is_reported_and_the_next_source_asked(
    home: Home, script: str | None, warning: str | None
) -> None:
    home.docker(credHelpers={"h": "odd"})
    home.file(".config/containers/auth.json", {"auths": {"h": auth("next", "p")}})
    if script is not None:
        home.helper("odd", script)
    assert await home.find("h") == Credentials("next", "p")
    assert len(home.warnings) == (warning is not None)
    assert all(warning and warning in line and "hunter2" not in line for line in home.warnings)


@pytest.mark.parametrize("content", ["{", "[]", "\x00", '"text"', "[" * 100_000])
async def test_a_broken_file_is_reported_and_the_next_one_asked(home: Home, content: str) -> None:
    home.file(".docker/config.json", content)
    home.file(".config/containers/auth.json", {"auths": {"h": auth("next", "p")}})
    assert await home.find("h") == Credentials("next", "p")
    assert len(home.warnings) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"auths": []},
        {"auths": {"h": "text"}},
        {"auths": {"h": {"auth": "%%%"}}},
        {"auths": {"h": {"auth": 1}}},
        {"auths": {"h": {"auth": "bm9jb2xvbg=="}}},
        {"credHelpers": 1, "credsStore": {}},
    ],
)
async def test_odd_entries_are_no_credentials(home: Home, content: dict[str, object]) -> None:
    home.docker(**content)
    assert await home.find("h") is None
    assert home.warnings == []


def test_printing_shows_no_secret() -> None:
    assert "hunter2" not in f"{Credentials('u', 'hunter2', 'hunter2')!r} {Credentials('u', 'hunter2')}"


async def test_a_login_is_kept_in_dockers_file(home: Home) -> None:
    home.docker(auths={"other": auth("x", "y")}, proxies={"default": {}})
    path = home.folder / ".docker" / "config.json"
    assert await docker_login.store("h:5000", Credentials("u", "p:w"), home.environment) == str(path)
    assert str(path) == docker_file(home.environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await home.find("h:5000") == Credentials("u", "p:w")
    assert json.loads(path.read_text())["proxies"] == {"default": {}}
    assert await docker_login.forget("h:5000", home.environment)
    assert not await docker_login.forget("h:5000", home.environment)
    assert await home.find("h:5000") is None
    assert await home.find("other") == Credentials("x", "y")


async def test_a_login_makes_the_file_or_refuses_a_broken_one(home: Home) -> None:
    await docker_login.store("h", Credentials("u", "p"), home.environment)
    assert await home.find("h") == Credentials("u", "p")
    assert stat.S_IMODE((home.folder / ".docker").stat().st_mode) == 0o700
    home.file(".docker/config.json", "{")
    with pytest.raises(BadAuthFile):
        await docker_login.store("h", Credentials("u", "p"), home.environment)
    assert (home.folder / ".docker" / "config.json").read_text() == "{"


async def test_a_login_goes_to_the_helper(home: Home) -> None:
    home.docker(credsStore="pass")
    with pytest.raises(ToolMissing):
        await docker_login.store("h", Credentials("u", "p"), home.environment)
    home.helper("pass", f'cat > "{home.folder}/$1"')
    assert await docker_login.store("h", Credentials("u", "p"), home.environment) == "docker-credential-pass"
    told = json.loads((home.folder / "store").read_text())
    assert told == {"ServerURL": "h", "Username": "u", "Secret": "p"}
    assert await docker_login.forget("h", home.environment)
    assert (home.folder / "erase").read_text() == "h"
    assert "auths" not in json.loads((home.folder / ".docker" / "config.json").read_text())


BACKEND = """
import json, os, pathlib, time
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

class Keyring(KeyringBackend):
    priority = 1
    path = pathlib.Path(os.environ["HOME"], "ring.json")

    def _all(self):
        mode = os.environ.get("RING_MODE")
        if mode == "locked":
            raise KeyringLocked("Failed to unlock the collection!")
        if mode == "dialog":
            time.sleep(60)
        if mode == "crash":
            os._exit(7)
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def get_password(self, service, username):
        return self._all().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        self.path.write_text(json.dumps({**self._all(), f"{service}/{username}": password}))

    def delete_password(self, service, username):
        ring = self._all()
        if ring.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError("not there")
        self.path.write_text(json.dumps(ring))
"""
"""A keyring like any other that is installed beside the keyring package, kept in a file."""


def with_keyring(home: Home, mode: str = "") -> dict[str, str]:
    home.file("lib/file_ring.py", BACKEND)
    library = str(home.folder / "lib")
    return {
        **home.environment,
        "PYTHON_KEYRING_BACKEND": "file_ring.Keyring",
        "PYTHONPATH": library,
        "RING_MODE": mode,
    }


async def test_the_keyring_keeps_credentials(home: Home) -> None:
    environment = with_keyring(home)
    assert await keyring_store.find("h:5000", environment) is None
    await keyring_store.store("h:5000", Credentials("u", "p:ä"), environment)
    await keyring_store.store("h:5000", Credentials("u2", "p2:ä"), environment)
    assert await home.find("h:5000", **environment) == Credentials("u2", "p2:ä")
    assert await home.find("h", **environment) is None
    await keyring_store.forget("h:5000", environment)
    await keyring_store.forget("h:5000", environment)
    assert await home.find("h:5000", **environment) is None


@pytest.mark.parametrize(("mode", "reason"), [("locked", "Failed to unlock"), ("crash", "status 7")])
async def test_a_locked_keyring_fails_no_look_up(home: Home, mode: str, reason: str) -> None:
    environment = with_keyring(home, mode)
    assert await home.find("h", **environment) is None
    assert len(home.warnings) == 1
    assert reason in home.warnings[0]
    with pytest.raises(KeyringUnavailable, match=reason) as refused:
        await keyring_store.store("h", Credentials("u", "hunter2"), environment)
    assert "--store docker" in str(refused.value.hint)
    assert "hunter2" not in str(refused.value)


async def test_a_keyring_that_shows_a_dialog_blocks_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_store, "LOOKUP_SECONDS", 1.0)
    with anyio.fail_after(30):
        assert await home.find("h", **with_keyring(home, "dialog")) is None
    assert "locked, or does not answer" in home.warnings[0]


async def test_without_a_session_there_is_no_keyring(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")  # no process is started for that
    assert await keyring_store.find("h", home.environment) is None
    await keyring_store.forget("h", home.environment)
    with pytest.raises(KeyringUnavailable, match="has none"):
        await keyring_store.store("h", Credentials("u", "p"), home.environment)
