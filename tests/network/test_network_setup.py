"""`tart network setup` and `remove` on a machine whose `/etc` is the test's own, and into a folder."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from installed_for_all import COMMAND, HELPER, OwnSystem, own_system
from tartlet.network.install import setup_program
from tartlet.network.install.setup_files import system_settings
from tartlet.network.install.setup_program import ProgramUnfit
from tartlet.network.preferences import KEYS, Preferences, read_text

__all__ = ["own_system"]
pytestmark = pytest.mark.needs_root

ALICE = "useradd --uid 1500 --create-home alice"
AS_ALICE = "setpriv --reuid alice --regid alice --init-groups"
SETUP, REMOVE = f"{COMMAND} network setup --yes --user alice", f"{COMMAND} network remove --yes"
BY_SYSTEMD = "mkdir -p /run/systemd/system"
TAPS_FOR_ALL = "mount -t tmpfs tmpfs /dev/net; mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun"
ATTACH = """
import anyio, os
from ipaddress import IPv4Address
from tap_guest import TapGuest
from tartlet.network.attachment import AttachRequest
from tartlet.network.bridge.bridge import Bridge
async def main():
    one = AttachRequest(vm="one", mac="7a:65:e4:3f:be:01")
    async with Bridge(on_demand=True).attach(one) as place:
        tap = TapGuest(descriptor=place.cables[0].descriptors[0], mac=bytes.fromhex(one.mac.replace(":", "")))
        lease = tap.leased()
        own = str(lease.address) == place.record.address
        print(os.getuid(), own, IPv4Address(lease.options[3]), 6 in lease.options)
anyio.run(main)
"""
INTO_A_FOLDER = """
import anyio, sys
from pathlib import Path
from tartlet.network.install.setup import network_remove, network_setup
folder = Path(sys.argv[1])
async def main():
    told = await network_setup(users=["alice"], root=folder)
    print(len(told.steps), len((await network_setup(users=["alice"], root=folder)).steps))
    if "remove" in sys.argv:
        await network_remove(root=folder)
anyio.run(main)
"""


def test_by_sudo_members_start_the_helper_and_nothing_else(own_system: OwnSystem) -> None:
    done = own_system.sh(f"""
        {ALICE}
        {SETUP} | grep -c tart
        stat -c '%a %U' /etc/sudoers.d/tartlet /etc/tartlet /etc/tartlet/network.toml
        getent group tart | cut -d: -f4
        {AS_ALICE} sudo -n -l {HELPER} --listen-fd 0
        if {AS_ALICE} sudo -n {HELPER} --listen-fd 0 --debug; then exit 9; fi
        if {AS_ALICE} sudo -n id; then exit 9; fi
    """)
    assert done.code == 0, done
    assert done.out.split() == [
        "4",
        "440",
        "root",
        "755",
        "root",
        "644",
        "root",
        "alice",
        str(HELPER),
        "--listen-fd",
        "0",
    ]
    assert "systemd does not run on this host" in done.err


def test_a_members_vm_gets_a_place_in_the_hosts_network(own_system: OwnSystem) -> None:
    if not own_system.helper_runs:
        pytest.skip("the system's own Python is another version")
    tests = Path(__file__).parent.parent
    done = own_system.sh(
        f"""
        {ALICE}; cp {tests}/tap_guest.py /home/alice; {TAPS_FOR_ALL}; ip link set lo up
        {SETUP} >/dev/null
        sed -i 's/^# .dns.$/[dns]/; s/^# mode.*/mode = "off"/' /etc/tartlet/network.toml
        {AS_ALICE} env PYTHONPATH=/home/alice {COMMAND.with_name("python")} -c '{ATTACH}'
        for look in $(seq 100); do ip link show tart0 2>/dev/null >&2 || break; sleep 0.1; done
        ip -br link | wc -l
        """,
        namespaces=("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
    )
    assert (done.code, done.out.split()) == (0, ["1500", "True", "192.168.64.1", "False", "1"]), done


def test_a_second_setup_has_nothing_to_do_and_removal_leaves_the_system_as_it_was(own_system: OwnSystem) -> None:
    done = own_system.sh(f"""
        {ALICE}
        cp /etc/group /etc/passwd /run
        {SETUP} >/dev/null; {SETUP}
        {REMOVE}
        cmp /etc/group /run/group; cmp /etc/passwd /run/passwd
        if ls -d /etc/tartlet /etc/sudoers.d/tartlet 2>&1; then exit 9; fi
        {REMOVE}
    """)
    assert done.code == 0, done
    assert done.out.splitlines()[0] == "Everything is in place already."
    assert done.out.splitlines()[-1] == "There is nothing to remove."


def test_what_was_there_before_or_was_changed_stays(own_system: OwnSystem) -> None:
    done = own_system.sh(f"""
        {ALICE}; groupadd --system tart
        {SETUP} >/dev/null
        echo 'backend = "passt"' >> /etc/tartlet/network.toml
        {REMOVE}
        tail -n 1 /etc/tartlet/network.toml; ls /etc/tartlet; getent group tart | cut -d: -f4
    """)
    assert done.code == 0, done
    assert "leave /etc/tartlet/network.toml, which was changed" in done.out
    assert done.out.splitlines()[-3:] == ['backend = "passt"', "network.toml", ""]


@pytest.mark.parametrize(
    ("before", "words", "said"),
    [
        ("true", f"{COMMAND} network setup --user alice </dev/null", "there is no terminal"),
        ("true", f"{COMMAND} network setup --yes --user nobody-of-that-name", "knows no user"),
        ("true", f"{AS_ALICE} {COMMAND} network setup --yes", f"this host's network\nsudo {COMMAND}"),
        ("true", f"{AS_ALICE} {COMMAND} network remove --yes", "only root may"),
        ("groupadd --gid 1600 tart", SETUP, "the group tart of this host is a person's (number 1600)"),
        (f"{BY_SYSTEMD}; groupadd -r tart; useradd --uid 1600 -g tart tart", SETUP, "the user tart of this host is"),
        ("mount --bind /usr/bin/false /usr/sbin/visudo", SETUP, "visudo failed"),
        ("PATH=/usr/bin:/bin; export PATH", SETUP, "without systemd sudo has to"),
        ("ip link add tartv0 type veth peer name other", REMOVE, "VMs run on this host's networks, by tartv0"),
        ("ip link add tartb0 type veth peer name other", REMOVE, "VMs run on this host's networks, by tartb0"),
    ],
    ids=["unattended", "unknown", "rights", "removal", "group", "user", "sudoers", "neither", "in-use", "bridged"],
)  # fmt: skip
def test_what_cannot_be_done_changes_nothing(own_system: OwnSystem, before: str, words: str, said: str) -> None:
    script = f"""
        {ALICE}; {before}
        cp /etc/passwd /etc/group /run
        if {words}; then exit 9; fi
        cmp /etc/passwd /run/passwd; cmp /etc/group /run/group
        if ls -d /etc/tartlet /etc/sudoers.d/tartlet 2>/dev/null; then exit 8; fi
    """
    done = own_system.sh(script, namespaces=("--mount", "--net"))
    assert done.code == 0, done
    assert said in done.err


def test_it_asks_and_no_is_an_answer(own_system: OwnSystem) -> None:
    done = own_system.sh(
        f"{ALICE}; echo n | script -qec '{COMMAND} network setup --user alice' /dev/null; ls /etc/tartlet"
    )
    assert "Go on? [y/N]" in done.out, done
    assert "Nothing was changed." in done.out
    assert done.code != 0


def test_the_units_are_whole_and_start_what_is_installed(own_system: OwnSystem, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    done = _into_a_folder(own_system, tmp_path, "systemd-analyze verify etc/systemd/system/tart-net.s*")
    assert done == "7 0\n"
    units = tmp_path / "etc/systemd/system"
    service, listening = (units / f"tart-net.{kind}" for kind in ("service", "socket"))
    assert f'ExecStart="{HELPER}"\nUser=tart\n' in service.read_text()
    assert "\nAmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE\n" in service.read_text()
    assert "ListenSequentialPacket=/run/tartlet/net.sock\nSocketGroup=tart\nSocketMode=0660\n" in listening.read_text()
    assert (units / "sockets.target.wants" / listening.name).is_symlink()
    assert "tart:" in (tmp_path / "etc/passwd").read_text()


def test_the_settings_that_are_written_change_nothing_until_they_are_changed(tmp_path: Path) -> None:
    shown = "".join(re.sub(r"^# (?=.* = |\[)", "", line) for line in system_settings().splitlines(keepends=True))
    uncommented = read_text(shown, tmp_path)
    assert read_text(system_settings(), tmp_path) == Preferences()
    assert uncommented == replace(Preferences(), nat=uncommented.nat, host=uncommented.host)
    assert all(f"{key.rpartition('.')[2]} = " in shown for key in KEYS if key != "backend")


def test_a_folder_is_given_back_as_it_was(own_system: OwnSystem, tmp_path: Path) -> None:
    assert _into_a_folder(own_system, tmp_path, "", "remove") == "7 0\n"
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert {name for name in left if not name.endswith("-")} == {"etc/passwd", "etc/group"}
    assert "tart" not in (tmp_path / "etc/passwd").read_text() + (tmp_path / "etc/group").read_text()


def _into_a_folder(own_system: OwnSystem, folder: Path, after: str, *more: str) -> str:
    (folder / "etc/systemd/system").mkdir(parents=True)
    (folder / "run/systemd/system").mkdir(parents=True)
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1500:1500::/home/alice:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nalice:x:1500:\n")
    words = " ".join(("/opt/tartlet/bin/python", "-c", f"'{INTO_A_FOLDER}'", str(folder), *more))
    done = own_system.sh(f"cd {folder}; {words}; {after}")
    assert (done.code, done.err) == (0, ""), done
    return done.out


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("chown alice /opt/tartlet/lib", "users other than root can change /opt/tartlet/lib"),
        (f"chmod o+w {HELPER}", f"users other than root can change {HELPER}"),
        ("chgrp alice /opt; chmod g+w /opt", "users other than root can change /opt,"),
        ("chmod 700 /opt/tartlet", "other users cannot start /opt/tartlet/bin/python"),
        (f"sed -i '1s:.*:#!/usr/bin/env python3:' {HELPER}", "does not say which Python runs it"),
        (f"rm {HELPER}", f"{HELPER} is missing"),
        ("cp -r /opt/tartlet /home/alice/bin; mount --bind /home/alice/bin /opt/tartlet", None),
        ("mv /opt/tartlet /home/alice/; ln -s /home/alice/tartlet /opt/tartlet", "/home/alice"),
    ],
    ids=["owner", "everybody", "group", "unreadable", "env", "missing", "fit", "home"],
)
def test_a_program_that_others_can_change_gets_no_rights(
    own_system: OwnSystem, tmp_path: Path, spoil: str, reason: str | None
) -> None:
    shutil.copytree(own_system.opt, tmp_path / "opt", symlinks=True)
    tmp_path.chmod(0o755)
    done = replace(own_system, opt=tmp_path / "opt").sh(f"{ALICE}; {spoil}; {SETUP}")
    assert (done.code == 0) is (reason is None), done
    assert (reason or "") in done.err


@pytest.mark.anyio
async def test_a_long_path_to_python_is_found_behind_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "helper"
    script.write_text("#!/bin/sh\n'''exec' \"/nowhere/bin/python\" \"$0\" \"$@\"\n' '''\n")
    with pytest.raises(ProgramUnfit, match="which Python"):
        await setup_program.check(script)
