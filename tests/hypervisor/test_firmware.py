"""Firmware by descriptors, and a VM's variable store made from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tartlet.errors import FileTrouble
from tartlet.hypervisor import firmware, nvram
from tartlet.hypervisor.firmware import Firmware, FirmwareMissing

STORE = bytes(16) + bytes.fromhex("8d2bf1ff96768b4ca9852747075b4f50") + bytes(8) + b"_FVH" + bytes(4052)


def described(folder: Path, name: str, code: str = "code.fd", **changes: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / code).write_bytes(b"code")
    (folder.parent / "vars.fd").write_bytes(STORE)
    descriptor = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(folder.parent / code), "format": "raw"},
            "nvram-template": {"filename": str(folder.parent / "vars.fd"), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3"],
    } | changes
    (folder / name).write_text(json.dumps(descriptor))


def found(*folders: Path, arch: str = "amd64") -> str:
    return firmware.find(arch, "7.2", folders).code.name


def test_the_first_name_wins_whatever_its_folder(tmp_path: Path) -> None:
    described(tmp_path / "own", "60-b.json", code="b.fd")
    described(tmp_path / "system", "50-a.json", code="a.fd")
    assert found(tmp_path / "own", tmp_path / "system") == "a.fd"


def test_a_more_specific_folder_replaces_a_file_of_the_same_name(tmp_path: Path) -> None:
    described(tmp_path / "own", "50-a.json", code="mine.fd")
    described(tmp_path / "system", "50-a.json", code="theirs.fd")
    assert found(tmp_path / "own", tmp_path / "system") == "mine.fd"


def test_an_empty_file_masks_one_of_the_same_name(tmp_path: Path) -> None:
    described(tmp_path / "system", "50-a.json", code="a.fd")
    described(tmp_path / "system", "60-b.json", code="b.fd")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "50-a.json").touch()
    assert found(tmp_path / "own", tmp_path / "system") == "b.fd"


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["secure-boot", "requires-smm"]},
        {"features": ["enrolled-keys"]},
        {"interface-types": ["bios"]},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"mapping": {"device": "flash", "mode": "stateless", "executable": {"filename": "/x", "format": "raw"}}},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": [{"architecture": "x86_64", "machines": ["microvm"]}]},
        {"targets": "nonsense"},
        {
            "mapping": {
                "device": "flash",
                "executable": {"filename": "/nowhere/code", "format": "raw"},
                "nvram-template": {"filename": "/nowhere/vars", "format": "raw"},
            }
        },
    ],
)
def test_what_does_not_fit_is_passed_over(tmp_path: Path, changes: dict[str, object]) -> None:
    described(tmp_path / "system", "10-unfit.json", code="unfit.fd", **changes)
    described(tmp_path / "system", "60-fit.json", code="fit.fd")
    assert found(tmp_path / "system") == "fit.fd"


def test_a_broken_descriptor_is_passed_over(tmp_path: Path) -> None:
    described(tmp_path / "system", "60-fit.json", code="fit.fd")
    (tmp_path / "system" / "10-broken.json").write_text("{")
    assert found(tmp_path / "system") == "fit.fd"


def test_missing_firmware_names_the_package(tmp_path: Path) -> None:
    described(tmp_path / "system", "60-fit.json")
    with pytest.raises(FirmwareMissing) as missing:
        found(tmp_path / "system", tmp_path / "none", arch="arm64")
    assert "qemu-efi-aarch64" in (missing.value.hint or "")
    assert str(tmp_path / "system") in str(missing.value)


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_this_hosts_firmware_makes_a_store_that_is_recognised(tmp_path: Path, arch: str) -> None:
    try:
        at_hand = firmware.find(arch, "7.2")
    except FirmwareMissing as missing:
        pytest.skip(str(missing))
    store = nvram.prepare(tmp_path, at_hand)
    assert store == nvram.VariableStore(tmp_path / "nvram.bin", "raw", foreign_nvram=False)
    assert store.path.read_bytes() == at_hand.variables_template.read_bytes()


@pytest.fixture
def template(tmp_path: Path) -> Firmware:
    described(tmp_path / "system", "60-fit.json")
    return firmware.find("amd64", "7.2", [tmp_path / "system"])


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    folder = tmp_path / "vm"
    folder.mkdir()
    return folder


def test_a_store_of_ours_is_used_as_it_is(vm: Path, template: Firmware) -> None:
    ours = STORE[:-4] + b"kept"
    (vm / "nvram.bin").write_bytes(ours)
    assert nvram.prepare(vm, template).path == vm / "nvram.bin"
    assert (vm / "nvram.bin").read_bytes() == ours


@pytest.mark.parametrize("foreign", [b"", b"Apple's own format" * 100, STORE[:2048], b"\x01" * len(STORE)])
def test_a_foreign_one_is_kept_byte_for_byte(vm: Path, template: Firmware, foreign: bytes) -> None:
    (vm / "nvram.bin").write_bytes(foreign)
    store = nvram.prepare(vm, template)
    assert store == nvram.VariableStore(vm / "efivars.fd", "raw", foreign_nvram=True)
    assert (vm / "nvram.bin").read_bytes() == foreign
    written = STORE[:-4] + b"boot"
    store.path.write_bytes(written)
    assert nvram.prepare(vm, template) == store
    assert store.path.read_bytes() == written


def test_a_folder_that_cannot_be_written_is_told(template: Firmware, tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="missing"):
        nvram.prepare(tmp_path / "missing", template)
