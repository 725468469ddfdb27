"""How a command becomes somebody else's, run by this host's own shell."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from tartlet.guest.commands import Command
from tartlet.guest.login import LOOK_UP, USER, Login

SU = ("su", "-s", "/bin/sh", "-c", 'exec "$@"', "--", USER, "sh")


def ran(login: Login, command: Command) -> tuple[int, bytes, bytes, str | None]:
    prepared = login.prepared(command)
    done = subprocess.run(prepared.words, capture_output=True, stdin=subprocess.DEVNULL, check=False, cwd="/")
    return done.returncode, done.stdout, done.stderr, prepared.refusal(done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("told", "prefix"),
    [
        (
            "1000 1001\nroot\nsetpriv\n",
            ("setpriv", "--reuid=1000", "--regid=1001", "--init-groups", "--reset-env", "--"),
        ),
        ("1000 1001\nroot\n", SU),
        ("1000 1001\nsetpriv\n", ()),
        (" \nroot\nsetpriv\n", ()),
        ("", ()),
        ("1000\nroot\n", ()),
        ("0;reboot 1\nroot\n", ()),
        ("١٢ ٣\nroot\n", ()),
        ("1000 1000 1000\nroot\n", ()),
    ],
)
def test_what_a_guest_tells_decides_the_words(told: str, prefix: tuple[str, ...]) -> None:
    assert Login.parsed(told).prefix == prefix


def test_the_look_up_runs_and_ends_well() -> None:
    done = subprocess.run(["/bin/sh", "-c", LOOK_UP], capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")
    try:
        admin = pwd.getpwnam(USER)
        assert lines[0] == f"{admin.pw_uid} {admin.pw_gid}"
    except KeyError:
        assert lines[0] == " "
    assert ("root" in lines) == (os.getuid() == 0)
    assert ("setpriv" in lines) == (shutil.which("setpriv") is not None)


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_every_shell_runs_the_words_alike(tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    command = Command(name="printf", args=("%s|", "a b", "*", ""), env={"K": "v"}, workdir=str(tmp_path))
    words = Login().prepared(command).words
    place = words.index("/bin/sh")
    words[place : place + 1] = [program, "sh"] if shell == "busybox" else [program]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout == b"a b|*||"


@pytest.mark.needs_root
def test_setpriv_gives_the_user_its_own_environment_and_groups() -> None:
    nobody = pwd.getpwnam("nobody")
    login = Login.parsed(f"{nobody.pw_uid} {nobody.pw_gid}\nroot\nsetpriv\n")
    script = 'id -u; id -g; echo "$USER $SECRET $EXTRA"; kill -9 $$'
    code, out, _, refusal = ran(login, Command(name="sh", args=("-c", script), env={"EXTRA": "x"}))
    assert out.decode().split() == [str(nobody.pw_uid), str(nobody.pw_gid), "nobody", "x"]
    assert (code, refusal) == (-9, None), "no process in between that would hide the signal"


def test_only_our_own_mark_says_that_a_command_did_not_start() -> None:
    prepared = Login().prepared(Command(name="x"))
    mark = prepared.token.encode()
    assert prepared.refusal(127, mark + b" why") == "why"
    assert prepared.refusal(126, mark + b" why") is None
    assert prepared.refusal(127, b"why " + mark) is None
    assert Login().prepared(Command(name="x")).token != prepared.token


def test_without_a_folder_of_its_own_the_user_starts_in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/does/not/exist")
    assert ran(Login(), Command(name="pwd"))[1] == b"/\n"


def test_a_file_that_may_not_be_run_is_passed_over_in_the_search(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho wrong\n")
    good = tmp_path / "good"
    good.mkdir()
    (good / "tool").write_text("#!/bin/sh\necho right\n")
    (good / "tool").chmod(0o755)
    found = ran(Login(), Command(name="tool", env={"PATH": f"{tmp_path}:{good}"}))
    assert found[:2] == (0, b"right\n")
