"""Which options of `run` go together."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from tartlet.cli import run_rules
from tartlet.cli.run import command
from tartlet.errors import InvalidArgument
from tartlet.network.rules.control import BadControlDescriptor
from tartlet.vm.planning.options import RunOptions
from tartlet.vm.stored.model import VmConfig, VmState

LINUX = VmConfig(arch="amd64")
ARM = VmConfig(arch="arm64")
MAC = VmConfig(os="darwin", arch="arm64")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"vnc": True, "vnc_experimental": True}, ["--vnc", "--vnc-experimental"]),
        ({"net_host": True, "net_softnet": True}, ["--net-softnet", "--net-host"]),
        ({"net_host": True, "net_bridged": ("eth0",)}, ["--net-bridged", "--net-host"]),
        ({"net_softnet": True, "net_bridged": ("eth0",)}, ["--net-bridged", "--net-softnet"]),
        ({"net_host": True, "net_softnet_allow": "10.0.0.0/8"}, ["--net-softnet", "--net-host"]),
        ({"net_host": True, "net_softnet_allow": ""}, ["--net-softnet", "--net-host"]),
        ({"net_host": True, "net_softnet_block": "0.0.0.0/0"}, ["--net-softnet"]),
        ({"net_host": True, "net_softnet_expose": "80:80"}, ["--net-softnet"]),
        ({"net_host": True, "net_softnet_control_fd": 3}, ["--net-softnet"]),
        ({"net_bridged": ("eth0",), "net_softnet_control_fd": 3}, ["--net-softnet"]),
        ({"graphics": True, "no_graphics": True}, ["--graphics", "--no-graphics"]),
        ({"capture_system_keys": True, "no_graphics": True}, ["--capture-system-keys"]),
        ({"capture_system_keys": True, "vnc": True}, ["--capture-system-keys"]),
        ({"capture_system_keys": True, "vnc_experimental": True}, ["--capture-system-keys"]),
        ({"capture_system_keys": True, "web": True}, ["--capture-system-keys"]),
        ({"web_port": 8080}, ["--web-port", "--web"]),
        ({"capture_system_keys": True, "vnc": True, "graphics": True}, ["--capture-system-keys"]),
        ({"recovery": True}, ["--recovery"]),
        ({"net_softnet_allow": "10.0.0.0/8,10.0.0.1"}, ["--net-softnet-allow", "element 2", "'10.0.0.1'"]),
        ({"net_softnet_block": "@guest"}, ["--net-softnet-block", "element 1", "'@guest'"]),
        ({"net_softnet_expose": "22"}, ["--net-softnet-expose", "element 1", "'22'"]),
        ({"rosetta": "tag"}, ["--rosetta"]),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        run_rules.agreed(RunOptions(**options))
    assert [name for name in named if name not in str(refused.value)] == []
    assert refused.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vnc": True, "graphics": True},
        {"vnc_experimental": True, "web": True, "web_port": 8080},
        {"vnc_experimental": True, "no_graphics": True},
        {"net_bridged": ("eth0", "eth1")},
        {"net_host": True},
        {"capture_system_keys": True},
        {"serial": True, "serial_path": "/dev/tty9"},
    ],
)
def test_options_that_go_together_stay_as_they_are(options: dict[str, Any]) -> None:
    assert run_rules.agreed(RunOptions(**options)) == RunOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"net_softnet_allow": "10.0.0.0/8"},
        {"net_softnet_block": "10.0.0.0/8"},
        {"net_softnet_expose": "80:80"},
        {"net_softnet_control_fd": 3},
    ],
)
def test_the_details_of_softnet_switch_it_on(options: dict[str, Any]) -> None:
    assert run_rules.agreed(RunOptions(**options)).net_softnet


def test_a_control_socket_has_to_be_inherited() -> None:
    """The event loop would open sockets of its own under the number that a script took for another."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        asked = RunOptions(net_softnet_control_fd=theirs.fileno())
        with pytest.raises(BadControlDescriptor, match="was not inherited"):
            run_rules.agreed_with_host(asked)
        theirs.set_inheritable(True)
        assert run_rules.agreed_with_host(asked) == asked
    with pytest.raises(BadControlDescriptor, match="is not open"):
        run_rules.agreed_with_host(asked)


def test_folders_that_cannot_be_shared_together_are_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidArgument, match="needs a name"):
        run_rules.agreed(RunOptions(dirs=("/tmp", "/var")))


def test_a_vm_that_can_be_suspended_shares_no_folders() -> None:
    options = RunOptions(dirs=("/tmp",))
    assert run_rules.agreed_with_vm(options, LINUX, VmState.STOPPED) == options
    for state, asked in ((VmState.SUSPENDED, options), (VmState.STOPPED, replace(options, suspendable=True))):
        with pytest.raises(InvalidArgument, match="--dir cannot go with"):
            run_rules.agreed_with_vm(asked, LINUX, state)
    copied = RunOptions(dirs=("/tmp:sync",), suspendable=True)
    assert run_rules.agreed_with_vm(copied, LINUX, VmState.SUSPENDED) == copied


def test_a_suspended_vm_is_run_as_a_suspendable_one() -> None:
    assert run_rules.agreed_with_vm(RunOptions(), LINUX, VmState.SUSPENDED).suspendable
    assert not run_rules.agreed_with_vm(RunOptions(), LINUX, VmState.STOPPED).suspendable


def test_a_linux_guest_can_be_suspendable() -> None:
    assert run_rules.agreed_with_vm(RunOptions(suspendable=True), LINUX, VmState.STOPPED).suspendable


@pytest.mark.parametrize("option", ["no_trackpad", "no_keyboard", "no_pointer"])
@pytest.mark.parametrize("config", [LINUX, MAC])
def test_a_suspendable_vm_keeps_its_input_devices(option: str, config: VmConfig) -> None:
    given: dict[str, Any] = {option: True}
    options = RunOptions(**given)
    for state, asked in ((VmState.SUSPENDED, options), (VmState.STOPPED, replace(options, suspendable=True))):
        with pytest.raises(InvalidArgument, match="--" + option.replace("_", "-")):
            run_rules.agreed_with_vm(asked, config, state)


def test_a_trackpad_is_for_macos_guests() -> None:
    options = RunOptions(no_trackpad=True)
    assert run_rules.agreed_with_vm(options, MAC, VmState.STOPPED) == options
    with pytest.raises(InvalidArgument, match="--no-trackpad"):
        run_rules.agreed_with_vm(options, LINUX, VmState.STOPPED)


def test_provisioning_needs_a_mac() -> None:
    with pytest.raises(InvalidArgument, match="--provisioning-opts"):
        run_rules.agreed_with_vm(RunOptions(provisioning_options="username=a"), LINUX, VmState.STOPPED)


@pytest.mark.parametrize(
    ("disk", "config", "refused"),
    [
        ("debian-arm64.iso", LINUX, True),
        ("debian-arm64.iso:ro", LINUX, True),
        ("debian-amd64.iso", LINUX, False),
        ("debian-amd64.iso", ARM, True),
        ("debian-arm64.iso", ARM, False),
        ("arm64.img", LINUX, False),
    ],
)
def test_an_installer_for_another_processor_is_refused(disk: str, config: VmConfig, refused: bool) -> None:
    options = RunOptions(disks=("first.img", disk))
    if refused:
        with pytest.raises(InvalidArgument, match=disk):
            run_rules.agreed_with_vm(options, config, VmState.STOPPED)
    else:
        assert run_rules.agreed_with_vm(options, config, VmState.STOPPED) == options


def test_every_option_of_the_command_has_its_field() -> None:
    given = {param.name for param in command.params} - {"name", "detach", "wait_ready", "wait_ready_timeout"}
    assert given | {"plain_output"} == set(RunOptions.__slots__)


def test_the_words_of_another_program_become_options() -> None:
    words = ["vm", "--dir", "/a:tag=x", "--dir=/b", "--disk=ISO:ro", "--net-softnet-allow", "0.0.0.0/0", "--nested"]
    params = command.make_context("run", words).params
    assert params["dirs"] == ("/a:tag=x", "/b")
    assert params["disks"] == ("ISO:ro",)
    assert params["net_softnet_allow"] == "0.0.0.0/0"
    assert params["net_softnet_block"] is None
    assert params["nested"]
