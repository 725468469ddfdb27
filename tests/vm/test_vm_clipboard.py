"""The clipboard that a guest shares with whoever sees its screen: who gets it, and that machines are saved with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from browsers import Browser, browser
from command import TART, surroundings
from vm_lab import Lab, leaving_nobody

PORT = "com.redhat.spice.0"
VNC = "--vnc-experimental"
CLIENT, PEER = (Path(__file__).parents[1] / f"{name}.py" for name in ("vnc_clipboard", "vdagent_peer"))


def has_port(lab: Lab, name: str = "mini") -> bool:
    """Whether the guest sees the port of the clipboard."""
    return PORT in lab.sh("cat /sys/class/virtio-ports/*/name", name).split()


@pytest.mark.parametrize(
    ("options", "shared"),
    [([VNC], True), ([VNC, "--no-clipboard"], False), ([], False)],
    ids=["yes", "no", "no screen"],
)
def test_a_guest_whose_screen_is_served_gets_it_unless_it_must_not(
    suspended: Lab, options: list[str], shared: bool
) -> None:
    with leaving_nobody(), suspended.running("mini", *options):
        assert has_port(suspended) is shared


def test_a_page_with_the_screen_shares_it_too(suspended: Lab) -> None:
    with leaving_nobody():
        suspended.done("run", "mini", "--web", "--detach", "--wait-ready", timeout=100)
        assert has_port(suspended)
        suspended.done("stop", "mini")


def test_it_does_not_keep_a_machine_from_being_saved(suspended: Lab) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    with leaving_nobody():
        with suspended.running("mini", VNC):
            before = suspended.sh(boot)
            suspended.done("snapshot", "create", "mini", "here")
            assert has_port(suspended)
            suspended.done("fork", "mini", "twin")
            assert (has_port(suspended), has_port(suspended, "twin")) == (True, False)
            assert suspended.sh(boot, "twin") == before
            suspended.done("stop", "twin")
            suspended.done("suspend", "mini")
            assert "suspended" in suspended.done("wait", "mini")
        for _ in range(2):
            with suspended.running("mini", VNC):
                assert (suspended.sh(boot), has_port(suspended)) == (before, True)
            suspended.done("snapshot", "restore", "mini", "here")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_copied_on_one_side_is_pasted_on_the_other(tmp_path: Path, suspended_debian: Lab) -> None:
    lab = suspended_debian
    with lab.running("debian", VNC) as said:
        url = said.split("VNC server is running at ")[1].split()[0]
        for _ in range(2):
            lab.done("cp", str(PEER), "debian:peer.py")
            with (
                spoken(lab, TART, "exec", "-i", "--user", "root", "debian", "python3", "/home/admin/peer.py") as guest,
                spoken(lab, sys.executable, CLIENT, url) as viewer,
            ):
                tell(guest, "from the guest: ä")
                assert hear(viewer) == "from the guest: ä"
                tell(viewer, "from the viewer: ß")
                assert hear(guest) == "from the viewer: ß"
            lab.done("snapshot", "create", "debian", "between")  # the port goes and comes back
            lab.done("snapshot", "delete", "debian", "between")
        with (
            spoken(lab, TART, "exec", "-i", "--user", "root", "debian", "python3", "/home/admin/peer.py") as guest,
            browser(tmp_path / "profile", lab.network.words) as chromium,
        ):
            a_page_shares_it(guest, chromium, lab.done("web", "debian").strip())


def a_page_shares_it(guest: subprocess.Popen[str], chromium: Browser, link: str) -> None:
    chromium.ask("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    page = chromium.page()
    page.go(link)
    page.wait("document.querySelector('#screen canvas')?.getAttribute('role')")
    tell(guest, "from the guest: ä")
    page.wait("navigator.clipboard.readText().then((text) => text === 'from the guest: ä')")
    page.value("navigator.clipboard.writeText('from the page: ß')")
    page.click("#paste")
    assert hear(guest) == "from the page: ß"


@contextmanager
def spoken(lab: Lab, *words: str | Path) -> Generator[subprocess.Popen[str]]:
    """A program in the VMs' network that is spoken to line by line; it has said that it is ready."""
    with subprocess.Popen(
        lab.network.words(*words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=surroundings(lab.home),
    ) as process:
        try:
            assert hear(process) == "in"
            yield process
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(30)


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip("\n")
