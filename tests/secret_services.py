"""A real Secret Service (gnome-keyring on a bus of its own) for the length of a test."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("dbus-daemon", "gnome-keyring-daemon")


@contextmanager
def secret_service(folder: Path, *, unlocked: bool) -> Generator[dict[str, str]]:
    """The environment of a session with a keyring; skips where there is none to be had.

    A locked one cannot ask anybody for its password, as in an SSH session: no display is named. One that was unlocked
    in the same `folder` before has a collection to be locked.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    environment = _session(folder)
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        assert bus.stdout is not None
        environment["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
        assert environment["DBUS_SESSION_BUS_ADDRESS"], "dbus-daemon does not start"
        with _keyring(environment, unlocked=unlocked):
            yield environment
    finally:
        _end(bus)


def _session(folder: Path) -> dict[str, str]:
    runtime = folder / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {
        "HOME": str(folder),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_DATA_HOME": str(folder / "data"),
    }


@contextmanager
def _keyring(environment: dict[str, str], *, unlocked: bool) -> Generator[None]:
    words = ["gnome-keyring-daemon", "--foreground", "--components=secrets", "--unlock" if unlocked else "--start"]
    daemon = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        assert daemon.stdin is not None
        daemon.stdin.write(b"of the keyring" if unlocked else b"")
        daemon.stdin.close()
        _await_service(environment)
        yield
    finally:
        _end(daemon)


def _await_service(environment: dict[str, str]) -> None:
    words = ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus"]
    words[-1] += ".NameHasOwner"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        told = subprocess.run(
            [*words, "string:org.freedesktop.secrets"], capture_output=True, text=True, check=False, env=environment
        )
        if "true" in told.stdout:
            return
        time.sleep(0.05)
    raise AssertionError("gnome-keyring does not answer")


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
