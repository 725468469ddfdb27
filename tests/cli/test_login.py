"""`tart login` and `tart logout`, with a registry that asks for passwords and a keyring that keeps them."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio import to_thread

from command import TART, Called
from registries import Front, front, real_registry
from secret_services import secret_service
from tartlet.image.credentials.secret import Credentials
from tartlet.image.credentials.sources import CredentialSources
from tartlet.image.registry.registry import opened

PASSWORD = "s3cr:t"
ALICE = ("--username", "alice", "--password-stdin", "--insecure")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncGenerator[Front]:
    (tmp_path / "registry").mkdir()
    async with real_registry(tmp_path / "registry") as host, front(host) as before:
        yield before


@pytest.fixture
def session(tmp_path: Path) -> dict[str, str]:
    """A session without a keyring, as on a server."""
    return {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}


async def tart(session: dict[str, str], *words: str, password: bytes = b"") -> Called:
    return await to_thread.run_sync(lambda: called(session, *words, password=password))


def called(session: dict[str, str], *words: str, password: bytes = b"") -> Called:
    done = subprocess.run(
        [TART, *words],
        input=password,
        capture_output=True,
        check=False,
        timeout=60,
        start_new_session=True,
        env={**session, "TART_HOME": f"{session['HOME']}/home"},
    )
    return Called(done.returncode, done.stdout.decode(), done.stderr.decode())


def keyrings_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*.keyring"))


async def known(session: dict[str, str], host: str) -> Credentials | None:
    warned: list[str] = []
    found = await CredentialSources(environment=session, warn=warned.append).first(host)
    assert warned == []
    return found[1] if found else None


@pytest.mark.parametrize(
    "words",
    [
        ("login",),
        ("login", "h", "--username", "u"),
        ("login", "h", "--password-stdin"),
        ("login", "h", "--store", "drawer"),
        ("login", "h", "more"),
        ("logout",),
    ],
)
def test_wrong_usage(session: dict[str, str], words: tuple[str, ...]) -> None:
    assert called(session, *words).code == 64


@pytest.mark.parametrize(("host", "hint"), [("https://ghcr.io", "leave out the scheme"), ("a b", "a host name")])
def test_what_is_no_registry(session: dict[str, str], host: str, hint: str) -> None:
    told = called(session, "login", host, "--username", "u", "--password-stdin", "--store", "docker", password=b"p")
    assert (told.code, told.out) == (1, "")
    assert hint in told.err


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_the_registry_is_asked_before_anything_is_kept(
    session: dict[str, str], registry: Front, kind: str
) -> None:
    registry.auth = kind
    words = ("login", registry.host, *ALICE, "--store", "docker")
    session["TART_LOG"] = "debug"
    wrong = await tart({**session, "TART_REGISTRY_USERNAME": "alice", "TART_REGISTRY_PASSWORD": PASSWORD}, *words)
    assert (wrong.code, "is empty" in wrong.err) == (1, True)
    wrong = await tart({**session, "TART_REGISTRY_USERNAME": "alice", "TART_REGISTRY_PASSWORD": PASSWORD}, *words,
                       password=b"hunter2\n")  # fmt: skip
    assert (wrong.code, wrong.out) == (1, "")
    assert f"invalid credentials for {registry.host}" in wrong.err
    assert "hunter2" not in wrong.err
    assert await known(session, registry.host) is None
    right = await tart(session, *words, password=f"{PASSWORD}\r\n\n".encode())
    assert (right.code, right.out) == (0, "")
    assert PASSWORD not in right.err
    assert await known(session, registry.host) == Credentials("alice", PASSWORD)
    kept = Path(session["HOME"]) / ".docker" / "config.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    async with opened(insecure=True, environment=session) as registries:
        await registries.repository(registry.host, "a").ping()
    del session["TART_LOG"]
    assert await tart(session, "logout", registry.host, "--store", "docker") == Called(0, "", "")
    assert await known(session, registry.host) is None


async def test_without_validation_nobody_is_asked(session: dict[str, str], registry: Front) -> None:
    words = ("login", registry.host, *ALICE, "--no-validate", "--store", "docker")
    assert (await tart(session, *words, password=b"p")).code == 0
    assert registry.seen == []
    assert await known(session, registry.host) == Credentials("alice", "p")


async def test_a_registry_that_does_not_answer_says_so(session: dict[str, str], registry: Front) -> None:
    words = ("login", registry.host, *ALICE[:-1], "--store", "docker")
    told = await tart(session, *words, password=b"p")
    assert (told.code, told.out) == (1, "")
    assert "--insecure" in told.err


@pytest.mark.parametrize(("user", "password"), [("", b"p"), ("u", b""), ("u", b"\n"), ("a:b", b"p"), ("u", b"\xff")])
def test_what_can_be_no_credentials(session: dict[str, str], user: str, password: bytes) -> None:
    words = ("login", "h", f"--username={user}", "--password-stdin", "--store", "docker", "--no-validate")
    assert called(session, *words, password=password).code == 1
    assert not (Path(session["HOME"]) / ".docker").exists()


def test_no_keyring_is_told_before_a_password_is_asked_for(session: dict[str, str]) -> None:
    told = called(session, "login", "h")
    assert (told.code, told.out) == (1, "")
    assert "--store docker" in told.err
    assert "TART_REGISTRY_USERNAME" in told.err
    assert called(session, "logout", "never-seen.example") == Called(0, "", "")


def test_without_a_terminal_the_way_round_is_told(session: dict[str, str]) -> None:
    told = called(session, "login", "h", "--store", "docker", password=b"alice\nsecret\n")
    assert (told.code, told.out) == (1, "")
    assert "--password-stdin" in told.err


def test_a_helper_gets_the_password_through_its_input_only(session: dict[str, str]) -> None:
    home = Path(session["HOME"])
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text('{"credsStore": "spy"}')
    spy = home / "docker-credential-spy"
    spy.write_text(
        f'#!/bin/sh\ncat > "{home}/told-$1"\n{{ echo "$0 $*"; env; cat /proc/$PPID/cmdline; }} >> "{home}/seen"\n'
    )
    spy.chmod(0o755)
    session["PATH"] = f"{home}:{session['PATH']}"
    words = ("login", "docker.io", *ALICE, "--no-validate", "--store", "docker")
    assert called(session, *words, password=b"hunter2").code == 0
    assert '"ServerURL": "https://index.docker.io/v1/"' in (home / "told-store").read_text()
    assert "hunter2" in (home / "told-store").read_text()
    assert "hunter2" not in (home / "seen").read_text()
    assert "hunter2" not in (home / ".docker" / "config.json").read_text()


async def test_a_real_keyring_keeps_and_forgets(tmp_path: Path, registry: Front) -> None:
    registry.auth = "bearer"
    with secret_service(tmp_path, unlocked=True) as session:
        assert await tart(session, "login", registry.host, *ALICE, password=PASSWORD.encode()) == Called(0, "", "")
        assert await known(session, registry.host) == Credentials("alice", PASSWORD)
        assert not (tmp_path / ".docker").exists()
        kept = keyrings_in(tmp_path)
        assert kept
        assert PASSWORD.encode() not in kept
        assert await tart(session, "logout", registry.host) == Called(0, "", "")
        assert await known(session, registry.host) is None
        assert await tart(session, "logout", registry.host) == Called(0, "", "")


async def test_a_locked_keyring_fails_nothing_that_does_not_need_it(tmp_path: Path, registry: Front) -> None:
    with secret_service(tmp_path, unlocked=True) as session:
        assert (await tart(session, "login", registry.host, *ALICE, password=PASSWORD.encode())).code == 0
    with secret_service(tmp_path, unlocked=False) as session:
        refused = await tart(session, "login", registry.host, *ALICE, password=PASSWORD.encode())
        assert (refused.code, refused.out) == (1, "")
        assert "unlock it" in refused.err
        assert "--store docker" in refused.err
        assert PASSWORD not in refused.err
        words = ("login", registry.host, *ALICE, "--store", "docker")
        assert await tart(session, *words, password=PASSWORD.encode()) == Called(0, "", "")
        registry.auth = "basic"
        async with opened(insecure=True, environment=session) as registries:
            await registries.repository(registry.host, "a").ping()
        assert (await tart(session, "logout", registry.host)).code == 1


async def test_a_login_tells_who_comes_first(session: dict[str, str]) -> None:
    session |= {"TART_REGISTRY_USERNAME": "bob", "TART_REGISTRY_PASSWORD": "b"}
    told = await tart(session, "login", "h", *ALICE, "--no-validate", "--store", "docker", password=b"p")
    assert (told.code, told.err) == (0, "other credentials for h, in the environment, are used before these\n")


def test_a_broken_file_of_dockers_is_named_and_left_alone(session: dict[str, str]) -> None:
    path = Path(session["HOME"]) / ".docker" / "config.json"
    path.parent.mkdir()
    path.write_text("{")
    for words in (("login", "h", *ALICE, "--no-validate"), ("logout", "h")):
        told = called(session, *words, "--store", "docker", password=b"p")
        assert (told.code, told.out) == (1, "")
        assert str(path) in told.err
    assert path.read_text() == "{"


async def test_a_logout_tells_who_still_knows_the_registry(tmp_path: Path) -> None:
    with secret_service(tmp_path, unlocked=True) as session:
        for store in ("docker", "keyring"):
            words = ("login", "h", *ALICE, "--no-validate", "--store", store)
            assert (await tart(session, *words, password=b"p")).code == 0
        told = await tart(session, "logout", "h")
        assert (told.code, told.err) == (0, "there still are credentials for h in the Docker and Podman files\n")


@contextmanager
def at_a_terminal(session: dict[str, str], *words: str) -> Generator[tuple[int, int]]:
    """`tart` in a session whose controlling terminal this is; gives the process and our end of the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(TART, ["tart", *words], {**session, "TART_HOME": f"{session['HOME']}/home"})
    try:
        yield pid, terminal
    finally:
        os.close(terminal)


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        seen += os.read(terminal, 1024).decode()
    return seen


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rest_of(terminal: int) -> str:
    seen = b""
    while True:
        try:
            part = os.read(terminal, 1024)
        except OSError:  # EIO: nobody has the other end any more
            return seen.decode()
        if not part:
            return seen.decode()
        seen += part


async def test_a_person_is_asked_and_the_password_is_not_shown(session: dict[str, str]) -> None:
    with at_a_terminal(session, "login", "h", "--store", "docker", "--no-validate") as (pid, terminal):
        read_until(terminal, "User name for h: ")
        os.write(terminal, b"alice\n")
        read_until(terminal, "Password: ")
        os.write(terminal, b"hunter2\n")
        shown = rest_of(terminal)
    assert exit_code(pid) == 0
    assert "hunter2" not in shown
    assert await known(session, "h") == Credentials("alice", "hunter2")


def test_ctrl_c_at_the_password_ends_it(session: dict[str, str]) -> None:
    with at_a_terminal(session, "login", "h", "--store", "docker", "--no-validate") as (pid, terminal):
        read_until(terminal, "User name for h: ")
        os.write(terminal, b"alice\n")
        read_until(terminal, "Password: ")
        os.write(terminal, b"\x03")
        shown = rest_of(terminal)
    assert exit_code(pid) == 1
    assert "Traceback" not in shown
    assert not (Path(session["HOME"]) / ".docker").exists()


@pytest.mark.parametrize("asked", ["User name for h: ", "Password: "])
def test_ctrl_d_ends_it_with_a_line_of_its_own(session: dict[str, str], asked: str) -> None:
    with at_a_terminal(session, "login", "h", "--store", "docker", "--no-validate") as (pid, terminal):
        if asked == "Password: ":
            read_until(terminal, "User name for h: ")
            os.write(terminal, b"alice\n")
        read_until(terminal, asked)
        os.write(terminal, b"\x04")
        shown = rest_of(terminal).replace("\r", "")
    assert exit_code(pid) == 1
    assert shown.removeprefix("^D\b\b").startswith("\nnothing was typed\n")


def test_a_password_that_a_terminal_would_cut_is_refused(session: dict[str, str]) -> None:
    with at_a_terminal(session, "login", "h", "--store", "docker", "--no-validate") as (pid, terminal):
        read_until(terminal, "User name for h: ")
        os.write(terminal, b"alice\n")
        read_until(terminal, "Password: ")
        for _ in range(5):
            os.write(terminal, b"x" * 1000)
        os.write(terminal, b"\n")
        shown = rest_of(terminal)
    assert exit_code(pid) == 1
    assert "--password-stdin" in shown
