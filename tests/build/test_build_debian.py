"""A guest built from Debian's packages: its disk, looked at from outside, and how builds end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from guest_images import CACHE, debian_image
from tartlet.build.distro import from_distro
from tartlet.build.layout import ESP_TYPE, ROOT_TYPES
from tartlet.build.progress import Progress
from tartlet.build.recipe import recipe_for
from tartlet.build.root_folder import PackagesFailed
from tartlet.guest.own_agent.tart_agent import PACKAGED_FILE

pytestmark = pytest.mark.timeout(600)  # the first run of all builds the guest


@pytest.fixture(scope="module")
def disk() -> Path:
    return debian_image(architecture="amd64")


@pytest.fixture(scope="module")
def partitions(disk: Path) -> list[dict[str, Any]]:
    return json.loads(tool("sfdisk", "--json", disk))["partitiontable"]["partitions"]  # type: ignore[no-any-return]


def tool(*words: str | Path) -> str:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, "PATH": path})
    return done.stdout


def in_root(disk: Path, partitions: list[dict[str, Any]], request: str) -> str:
    return tool("debugfs", "-R", request, f"{disk}?offset={partitions[1]['start'] * 512}")


def test_the_partitions_are_discoverable(partitions: list[dict[str, Any]]) -> None:
    recipe = recipe_for("debian:bookworm", "amd64")
    assert [(row["type"], row["uuid"].lower()) for row in partitions] == [
        (ESP_TYPE, str(recipe.identifier("esp"))),
        (ROOT_TYPES["amd64"], str(recipe.identifier("root"))),
    ]


def test_the_boot_menu_starts_the_kernel_of_the_root_at_once(disk: Path, partitions: list[dict[str, Any]]) -> None:
    inside = f"{disk}@@{partitions[0]['start'] * 512}"
    files = tool("mdir", "-i", inside, "-b", "-/", "::").split()
    entry = next(name for name in files if name.endswith(".conf") and "/entries/" in name)
    version = Path(entry).stem.removeprefix("linux-")
    assert {"::/EFI/BOOT/BOOTX64.EFI", f"::/linux/{version}/vmlinuz", f"::/linux/{version}/initrd.img"} <= {*files}
    assert tool("mtype", "-i", inside, "::/loader/loader.conf") == "timeout 0\n"
    options = next(line for line in tool("mtype", "-i", inside, entry).splitlines() if line.startswith("options"))
    assert f"root=PARTUUID={partitions[1]['uuid'].lower()}" in options
    assert f"/boot/vmlinuz-{version}" in in_root(disk, partitions, f"ncheck -c {inode(disk, partitions, version)}")


def inode(disk: Path, partitions: list[dict[str, Any]], version: str) -> str:
    return in_root(disk, partitions, f"stat /boot/vmlinuz-{version}").split()[1]


def test_the_root_is_sound_and_has_no_identity(disk: Path, partitions: list[dict[str, Any]]) -> None:
    tool("e2fsck", "-fn", f"{disk}?offset={partitions[1]['start'] * 512}")
    assert "ssh_host" not in in_root(disk, partitions, "ls /etc/ssh")
    assert in_root(disk, partitions, "cat /etc/machine-id") == ""
    assert in_root(disk, partitions, "cat /etc/hostname") == "debian\n"
    assert "stub-resolv.conf" in in_root(disk, partitions, "stat /etc/resolv.conf")
    assert "admin:x:1000" in in_root(disk, partitions, "cat /etc/passwd")
    assert in_root(disk, partitions, "stat /var/lib/cloud/instance") == ""


def test_our_agent_is_a_package_that_is_installed(disk: Path, partitions: list[dict[str, Any]]) -> None:
    status = in_root(disk, partitions, "cat /var/lib/dpkg/status").split("\n\n")
    (ours,) = (part for part in status if "Package: tart-agent\n" in part)
    assert "Status: install ok installed\n" in ours
    assert "Inode" in in_root(disk, partitions, f"stat {PACKAGED_FILE}")


def test_apt_keeps_nothing_of_the_build(disk: Path, partitions: list[dict[str, Any]]) -> None:
    assert "mmdebstrap" not in in_root(disk, partitions, "ls /etc/apt/apt.conf.d")
    assert ".deb" not in in_root(disk, partitions, "ls /var/cache/apt/archives")
    assert "tartlet" not in in_root(disk, partitions, "ls /var/cache")
    lines = in_root(disk, partitions, "cat /etc/apt/sources.list").splitlines()
    assert [line for line in lines if line] == [*recipe_for("debian:bookworm", "amd64").mirrors]


def test_the_disk_is_sparse_and_protected(disk: Path) -> None:
    status = disk.stat()
    assert status.st_blocks * 512 < status.st_size / 2
    assert status.st_mode & 0o777 == 0o444


@pytest.mark.usefixtures("disk")
async def test_a_second_build_only_looks_into_the_cache_and_tells_so() -> None:
    told: list[Progress] = []
    await from_distro("debian:12", cache=CACHE, architecture="x86_64", report=told.append)
    assert [progress.stage for progress in told] == ["found the guest in the cache"]


async def test_a_build_without_a_mirror_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    for name in ("TART_DEBIAN_MIRROR", "TART_DEBIAN_SECURITY_MIRROR"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed}/debian")
    with pytest.raises(PackagesFailed, match=rf"127\.0\.0\.1:{closed}") as failed:
        await from_distro("debian:bookworm", cache=tmp_path, architecture="amd64")
    assert "TART_DEBIAN_MIRROR" in str(failed.value.hint)
    assert os.listdir(tmp_path / ".work") == []


@pytest.mark.parametrize("seconds", [0.2, 3])
async def test_an_interrupted_build_leaves_nothing(tmp_path: Path, seconds: float) -> None:
    with anyio.move_on_after(seconds) as limit:
        await from_distro("debian:bookworm", cache=tmp_path, architecture="amd64")
    assert limit.cancelled_caught
    assert os.listdir(tmp_path / ".work") == []
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == []


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_for_the_next_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = (
        "import anyio, sys; from pathlib import Path; from tartlet.build.distro import from_distro\n"
        "anyio.run(lambda: from_distro('debian:bookworm', cache=Path(sys.argv[1])))"
    )
    for seconds in (1, 4, 12):
        builder = subprocess.Popen([sys.executable, "-c", code, cache])
        time.sleep(seconds)
        builder.kill()
        builder.wait()
        assert not [name for name in os.listdir(cache) if not name.startswith(".")]
    assert anyio.run(stages_of_a_next_build, cache)[-1] == "installing the base system"
    assert os.listdir(cache / ".work") == []


async def stages_of_a_next_build(cache: Path) -> list[str]:
    """It comes as far as `dpkg`, with nothing in its way, and is interrupted there."""
    told: list[str] = []
    with anyio.CancelScope() as scope:

        def hear(progress: Progress) -> None:
            told.append(progress.stage)
            assert len(os.listdir(cache / ".work")) == 1
            if progress.stage == "installing the base system":
                scope.cancel()

        await from_distro("debian:bookworm", cache=cache, report=hear)
    assert scope.cancelled_caught
    return told
