"""A machine to words: a table of what matters, and what every machine has."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from machines import text_in
from tartlet.errors import ToolMissing
from tartlet.hypervisor import accel, firmware, nvram, process, qemu, qmp
from tartlet.hypervisor.accel import HostFacts
from tartlet.hypervisor.command_line import command_line
from tartlet.hypervisor.devices import (
    Balloon,
    Entropy,
    Graphics,
    Inputs,
    NetworkCard,
    Port,
    Ports,
    Sound,
    TooManyDevices,
    escaped,
)
from tartlet.hypervisor.firmware import Firmware, FirmwareMissing
from tartlet.hypervisor.machine import Machine, Ram, machine_type
from tartlet.hypervisor.nvram import VariableStore
from tartlet.hypervisor.qmp import RunState
from tartlet.hypervisor.shared_folder import SharedFolder

NO_KVM = HostFacts(arch="amd64", platform="linux", kvm_trouble="none")
CODE = Firmware(
    code=Path("/fw/code"), code_format="raw", variables_template=Path("/fw/vars"), variables_format="raw",
    descriptor=Path("/fw/60.json"),
)  # fmt: skip
PLAIN = Machine(
    name="web", arch="amd64", type="pc-q35-7.2", cpus=2, memory=3 << 30, accelerator=accel.choose("amd64", NO_KVM),
    firmware=CODE, variables=VariableStore(Path("/vm/nvram.bin"), "raw", foreign_nvram=False), monitor=7,
    serial_log=Path("/vm/serial.log"), devices=(),
)  # fmt: skip


def words_after(option: str, words: list[str]) -> list[str]:
    return [value for word, value in pairwise(words) if word == option]


@pytest.mark.parametrize(
    ("machine", "option", "value"),
    [
        (PLAIN, "-name", "guest=web,debug-threads=on"),
        (replace(PLAIN, name="a,b"), "-name", "guest=a,,b,debug-threads=on"),
        (PLAIN, "-smp", "2"),
        (PLAIN, "-m", "size=3221225472B"),
        (PLAIN, "-accel", "tcg,thread=multi"),
        (PLAIN, "-mon", "chardev=monitor,mode=control"),
        (PLAIN, "-chardev", "socket,id=monitor,fd=7"),
        (PLAIN, "-chardev", "file,id=serial0,path=/vm/serial.log,append=on"),
        (replace(PLAIN, serial_log=Path("/a,b/log")), "-chardev", "file,id=serial0,path=/a,,b/log,append=on"),
        (PLAIN, "-display", "none"),
        (replace(PLAIN, uuid="0b1c"), "-uuid", "0b1c"),
        (replace(PLAIN, restored=True), "-incoming", "defer"),
        (PLAIN, "-device", "vmgenid,guid=auto"),
    ],
)
def test_words(machine: Machine, option: str, value: str) -> None:
    assert value in words_after(option, command_line("qemu", machine))


def test_nothing_of_the_hosts_configuration_gets_in() -> None:
    words = command_line("qemu", PLAIN)
    assert words[:3] == ["qemu", "-nodefaults", "-no-user-config"]
    assert not {"-uuid", "-incoming"} & set(words)


def test_the_firmware_is_two_flash_chips_of_which_the_guest_writes_one() -> None:
    code, variables = map(json.loads, words_after("-blockdev", command_line("qemu", PLAIN)))
    assert (code["file"]["filename"], code["read-only"]) == ("/fw/code", True)
    assert (variables["file"]["filename"], variables["read-only"]) == ("/vm/nvram.bin", False)
    (machine,) = words_after("-machine", command_line("qemu", PLAIN))
    assert machine.startswith("pc-q35-7.2,pflash0=firmware-code,pflash1=firmware-variables")


def test_only_a_machine_without_a_window_is_kept_from_starting_programs() -> None:
    assert "-sandbox" in command_line("qemu", PLAIN)
    assert "-sandbox" not in command_line("qemu", replace(PLAIN, display=("-display", "gtk")))


def test_what_qemu_inherits() -> None:
    card = NetworkCard(mac="52:54:00:00:00:01", netdev="stream,server=off,addr.type=fd,addr.str=12", inherited=(12,))
    ports = Ports(ports=(Port(name="a", descriptor=9), Port(name="mark")))
    assert replace(PLAIN, devices=(card, ports, Entropy())).descriptors() == (7, 12, 9)


@pytest.mark.parametrize(
    ("card", "netdev"),
    [
        (NetworkCard(mac="m", netdev="user"), "user,id=net0"),
        (NetworkCard(mac="m", netdev="user,restrict=on", index=2), "user,id=net2,restrict=on"),
    ],
)
def test_cards_and_cables(card: NetworkCard, netdev: str) -> None:
    assert card.words()[1] == netdev


def test_every_card_has_its_own_place_and_the_first_is_where_it_always_was() -> None:
    places = [NetworkCard(mac="m", netdev="user", index=index).words()[3].rpartition("addr=")[2] for index in range(5)]
    assert places[0] == "0x2"
    assert len(set(places)) == 5
    with pytest.raises(TooManyDevices):
        NetworkCard(mac="m", netdev="user", index=5).words()


def test_shared_folders_are_functions_of_one_place_and_need_shared_memory() -> None:
    folders = tuple(SharedFolder(tag=f"a,{index}", descriptor=30 + index, index=index) for index in range(8))
    words = command_line("qemu", replace(PLAIN, devices=folders, ram=Ram(9)))
    assert "socket,id=share3,fd=33" in words_after("-chardev", words)
    told = [word for word in words_after("-device", words) if word.startswith("vhost-user-fs-pci")]
    assert all(f"tag=a,,{index},addr=0xa.{index:#x}" in word for index, word in enumerate(told))
    assert words_after("-object", words) == [
        "memory-backend-file,id=memory,size=3221225472B,mem-path=/proc/self/fd/9,share=on"
    ]
    assert words_after("-machine", words)[0].endswith("memory-backend=memory")
    assert not any("memory-backend" in word for word in command_line("qemu", PLAIN))
    with pytest.raises(TooManyDevices):
        SharedFolder(tag="x", descriptor=1, index=8).words()


def test_no_keyboard_and_no_pointer_means_no_usb() -> None:
    assert Inputs(keyboard=False, pointer=False).words() == []
    assert words_after("-device", Inputs(keyboard=False).words())[1:] == [
        "usb-tablet,bus=usb.0,port=2",
        "virtio-tablet-pci,addr=0xb",
    ]


def test_the_guest_sees_the_same_sound_card_whether_anybody_hears_it() -> None:
    silent, heard = Sound().words(), Sound(driver="pa").words()
    assert (silent[1], heard[1]) == ("none,id=audio", "pa,id=audio")
    assert silent[2:] == heard[2:]


def test_commas_are_doubled() -> None:
    assert escaped("a,b,,c") == "a,,b,,,,c"


@pytest.mark.anyio
async def test_an_arm64_guest_reaches_its_firmware_on_any_host(tmp_path: Path) -> None:
    try:
        program = qemu.find("arm64")
        series = qemu.version(program).series
        code = firmware.find("arm64", series)
    except (ToolMissing, FirmwareMissing) as missing:
        pytest.skip(str(missing))
    ours, theirs = socket.socketpair()
    machine = replace(
        PLAIN, arch="arm64", type=machine_type("arm64", series), cpus=1, memory=256 << 20, monitor=theirs.fileno(),
        accelerator=accel.choose("arm64"), firmware=code, variables=nvram.prepare(tmp_path, code),
        serial_log=tmp_path / "serial.log",
        devices=(
            Graphics(width=800, height=600, arch="arm64"),
            NetworkCard(mac="52:54:00:00:00:01", netdev="user,restrict=on"),
            Ports(ports=(Port(name="mark"),)), Entropy(), Balloon(), Inputs(), Sound(),
        ),
    )  # fmt: skip
    argv = command_line(program, machine)
    with ours, theirs:
        async with process.spawned(argv, log_file=tmp_path / "log", pass_fds=machine.descriptors()) as running:
            theirs.close()
            async with qmp.connected(ours) as monitor:
                assert await monitor.status() is RunState.RUNNING
                await text_in(tmp_path / "serial.log", "UEFI")
                await monitor.quit()
            assert await running.wait() == 0
