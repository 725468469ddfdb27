"""What a guest is built of: names, packages, mirrors, and refusals before any work."""

from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tartlet.build.distro import from_distro
from tartlet.build.emulation import CannotEmulate, Host, registration
from tartlet.build.layout import layout_for
from tartlet.build.mirrors import sources
from tartlet.build.overlay import write_overlay
from tartlet.build.recipe import recipe_for
from tartlet.build.requirements import CannotBuild, check_room
from tartlet.build.suites import SUITES, UBUNTU, Suite, suite_named
from tartlet.errors import InvalidArgument
from tartlet.units import GIB, MIB


@pytest.mark.parametrize(
    ("text", "codename"), [("debian:bookworm", "bookworm"), ("debian:13", "trixie"), ("ubuntu:24.04", "noble")]
)
def test_a_release_is_known_by_name_and_number(text: str, codename: str) -> None:
    assert suite_named(text).codename == codename


@pytest.mark.parametrize("text", ["debian", "debian:sarge", "fedora:40", "", "debian:bookworm "])
def test_an_unknown_release_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        suite_named(text)
    assert "debian:bookworm" in str(refused.value.hint)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="riscv64"):
        recipe_for("debian:bookworm", "riscv64")


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_equal_recipes_have_equal_digests_and_identifiers(suite: Suite, architecture: str) -> None:
    one, other = recipe_for(suite.name, architecture), recipe_for(suite.name, architecture)
    assert one.digest == other.digest
    assert one.identifier("root") == other.identifier("root")
    assert one.identifier("root") != one.identifier("esp")


def test_whatever_decides_the_content_decides_the_digest() -> None:
    recipe = recipe_for("debian:bookworm", "amd64")
    others = [
        recipe_for("debian:trixie", "amd64"),
        recipe_for("debian:bookworm", "arm64"),
        replace(recipe, packages=(*recipe.packages, "vim")),
        replace(recipe, mirrors=()),
        replace(recipe, contents="other"),
    ]
    assert len({recipe.digest, *(other.digest for other in others)}) == len(others) + 1


@pytest.mark.parametrize(("architecture", "console"), [("amd64", "ttyS0"), ("arm64", "ttyAMA0")])
def test_the_serial_console_is_the_last_one(architecture: str, console: str) -> None:
    recipe = recipe_for("debian:bookworm", architecture)
    words = recipe.kernel_command_line.split()
    assert words[-2:] == ["console=tty0", f"console={console}"]
    assert words[0] == f"root=PARTUUID={recipe.identifier('root')}"


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


BOOKWORM = suite_named("debian:bookworm")


def test_the_mirror_is_the_distributions_own_when_nobody_says_otherwise(apt: Path) -> None:
    assert sources(BOOKWORM, "amd64", apt=apt, env={}) == (
        "deb http://deb.debian.org/debian bookworm main",
        "deb http://deb.debian.org/debian bookworm-updates main",
        "deb http://deb.debian.org/debian-security bookworm-security main",
    )


def test_the_mirror_of_this_machine_is_used(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/a/b] http://near.example/debian/ bookworm main\n"
        "deb http://other.example/apt stable main\n"
    )
    lines = sources(BOOKWORM, "amd64", apt=apt, env={})
    assert [line.split()[1] for line in lines] == [
        "http://near.example/debian",
        "http://near.example/debian",
        "http://deb.debian.org/debian-security",
    ]


def test_the_newer_style_of_apts_files_is_read(apt: Path) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: http://near.example/debian\nSuites: bookworm\n  bookworm-updates\n"
        "Components: main\n\n"
        "Types: deb\nURIs: http://near.example/debian-security/\nSuites: bookworm-security\nComponents: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
    )
    lines = sources(BOOKWORM, "amd64", apt=apt, env={})
    assert [line.split()[1] for line in lines] == [
        "http://near.example/debian",
        "http://near.example/debian",
        "http://near.example/debian-security",
    ]


def test_what_the_user_says_goes_before_all(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://near.example/debian bookworm main\n")
    said = {"TART_DEBIAN_MIRROR": "http://lan/debian", "TART_DEBIAN_SECURITY_MIRROR": "http://lan/security"}
    lines = sources(BOOKWORM, "amd64", apt=apt, env=said)
    assert [line.split()[1] for line in lines] == ["http://lan/debian", "http://lan/debian", "http://lan/security"]


def test_a_debian_machine_does_not_decide_ubuntus_mirror(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://near.example/debian bookworm main\n")
    noble = suite_named("ubuntu:noble")
    assert sources(noble, "amd64", apt=apt, env={})[0] == "deb http://archive.ubuntu.com/ubuntu noble main universe"
    assert sources(noble, "arm64", apt=apt, env={})[2].split()[1] == "http://ports.ubuntu.com/ubuntu-ports"


def test_the_overlay_is_owned_by_root_and_the_same_every_time(tmp_path: Path) -> None:
    recipe = recipe_for("debian:bookworm", "amd64")
    one, other = tmp_path / "one.tar", tmp_path / "other.tar"
    write_overlay(recipe, one)
    write_overlay(recipe, other)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as archive:
        entries = {entry.name: entry for entry in archive}
        assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
        assert entries["etc/sudoers.d/90-admin"].mode == 0o440
        assert entries["usr/local/sbin/update-esp"].mode == 0o755
        assert entries["etc/fstab"].mode == 0o644
        assert any(name.startswith("var/cache/tartlet/tart-agent_") for name in entries)
        line = archive.extractfile("etc/kernel/cmdline")
        assert line is not None
        assert line.read().decode() == f"{recipe.kernel_command_line}\n"


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An emulator in a PATH that has nothing else."""
    program = tmp_path / "bin" / "qemu-aarch64-static"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def foreign(table: Path, *, own_table: bool = False) -> Host:
    return Host(machine="x86_64", table=table, own_table=own_table)


def test_a_foreign_guest_without_an_emulator_is_refused_naming_the_package(tmp_path: Path, emulator: Path) -> None:
    emulator.unlink()
    with pytest.raises(CannotEmulate) as refused:
        registration("arm64", foreign(tmp_path, own_table=True))
    assert "arm64" in str(refused.value)
    assert "qemu-user-static" in str(refused.value.hint)


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("state", [None, "disabled\n"])
def test_an_emulator_that_the_kernel_was_not_told_of_is_named(tmp_path: Path, state: str | None) -> None:
    if state:
        (tmp_path / "qemu-aarch64").write_text(state)
    with pytest.raises(CannotEmulate, match="does not start arm64") as refused:
        registration("arm64", foreign(tmp_path))
    assert "update-binfmts --enable qemu-aarch64" in str(refused.value.hint)


def test_an_emulator_goes_into_a_table_of_our_own_where_there_can_be_one(tmp_path: Path, emulator: Path) -> None:
    line = registration("arm64", foreign(tmp_path, own_table=True))
    assert line is not None
    fields = line.split(":")
    assert (fields[1], fields[6], fields[7]) == ("qemu-aarch64", str(emulator), "OCF")
    assert len(fields[4].encode().decode("unicode_escape")) == len(fields[5].encode().decode("unicode_escape")) == 20


def test_a_registered_emulator_is_used(tmp_path: Path) -> None:
    (tmp_path / "qemu-aarch64").write_text("enabled\ninterpreter /usr/bin/qemu-aarch64-static\n")
    assert registration("arm64", foreign(tmp_path)) is None


@pytest.mark.parametrize(("machine", "architecture"), [("aarch64", "arm64"), ("x86_64", "amd64")])
def test_a_guest_of_this_machines_kind_needs_no_emulator(tmp_path: Path, machine: str, architecture: str) -> None:
    assert registration(architecture, Host(machine=machine, table=tmp_path, own_table=False)) is None


@pytest.mark.skipif(Path(UBUNTU.keyring).exists(), reason="Ubuntu's keys are on this machine")
async def test_without_the_distributions_keys_their_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotBuild) as refused:
        await from_distro("ubuntu:noble", cache=tmp_path)
    assert "ubuntu-keyring" in str(refused.value.hint)
    assert os.listdir(tmp_path) == []


async def test_without_the_programs_their_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuild, match="mmdebstrap mtools util-linux") as refused:
        await from_distro("debian:bookworm", cache=tmp_path)
    assert str(refused.value.hint).startswith("apt install ")


def test_too_little_room_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(CannotBuild, match=r"has .* left"):
        check_room(tmp_path, needed=1 << 62)


@pytest.mark.parametrize("content", [0, 500 * MIB, 3 * GIB])
def test_the_disk_is_aligned_and_has_room(content: int) -> None:
    layout = layout_for(content)
    assert layout.root_size >= max(2 * GIB, content + GIB)
    assert layout.root_offset == layout.esp_offset + layout.esp_size
    assert {layout.esp_offset % MIB, layout.root_offset % MIB, layout.disk_size % MIB} == {0}
