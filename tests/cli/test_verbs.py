"""Every verb that needs no guest, called as its users call it: what it prints, how it ends, what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command import TART, Called, snapshot, surroundings, tart
from tartlet.cli.get import shown
from tartlet.host.paths import Home
from tartlet.network import record
from tartlet.vm.control import ask
from tartlet.vm.control.stop import request_suspend
from tartlet.vm.stored.model import VmConfig, VmState, host_arch
from tartlet.vm.stored.store import VmNotRunning, VmStore

OTHER_ARCH = "arm64" if host_arch() == "amd64" else "amd64"

HOLD = """
import fcntl, os, signal, sys
heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
obedient = sys.argv[2] == "obedient"
while not (obedient and heard):
    signal.pause()
print(*heard, flush=True)
"""


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "home"
    assert tart(home, "create", "--linux", "debian") == Called(0, "", "")
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    """A home with one stopped VM, `debian`."""
    return copied(made_home, tmp_path / "home")


def copied(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", "--sparse=always", source, target], check=True)
    return target


@contextmanager
def supervised(home: Path, name: str, *, obedient: bool = True) -> Generator[subprocess.Popen[str]]:
    """A process that holds a VM's lock, as a supervisor does."""
    config = home / "vms" / name / "config.json"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config), "obedient" if obedient else "stubborn"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def names(home: Path) -> str:
    return tart(home, "list", "--source", "local", "--quiet").out


def config_of(home: Path, name: str) -> dict[str, object]:
    document: dict[str, object] = json.loads((home / "vms" / name / "config.json").read_text())
    return document


def suspend(home: Path, name: str) -> Path:
    state = home / "vms" / name / "state.vzvmsave"
    state.write_bytes(b"saved")
    return state


# What users do


def test_create_clone_rename_and_delete(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert names(home) == ""
    assert tart(home, "create", "--linux", "debian") == Called(0, "", "")
    assert names(home) == "debian\n"
    assert tart(home, "clone", "debian", "ubuntu").code == 0
    assert names(home) == "debian\nubuntu\n"
    assert tart(home, "rename", "debian", "fedora") == Called(0, "", "")
    assert names(home) == "fedora\nubuntu\n"
    assert tart(home, "delete", "ubuntu") == Called(0, "", "")
    assert names(home) == "fedora\n"
    assert tart(home, "delete", "fedora") == Called(0, "", "")
    assert names(home) == ""
    assert os.listdir(home / "tmp") == []


def test_the_cache_can_be_a_link_to_another_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(tmp_path / "real")
    assert tart(tmp_path / "home", "create", "--linux", "linux-vm").code == 0
    assert names(tmp_path / "home") == "linux-vm\n"
    assert (tmp_path / "home" / "cache").is_symlink()


def test_the_order_of_options_and_names_is_free(home: Path) -> None:
    for words in (["set", "--cpu=2", "debian"], ["set", "debian", "--cpu", "3"], ["set", "--cpu", "4", "debian"]):
        assert tart(home, *words).code == 0
    assert config_of(home, "debian")["cpuCount"] == 4


# list and get


def test_list_without_vms(tmp_path: Path) -> None:
    assert tart(tmp_path / "home", "list") == Called(0, "\n", "")
    assert tart(tmp_path / "home", "list", "--quiet") == Called(0, "", "")
    assert tart(tmp_path / "home", "list", "--format", "json") == Called(0, "[\n\n]\n", "")


def test_list_prints_a_table(home: Path) -> None:
    header, line = tart(home, "list").out.splitlines()
    assert header.split() == ["Source", "Name", "Disk", "Size", "Accessed", "State"]
    assert line.startswith("local  debian 50 GB ")
    assert line.endswith(" stopped")
    assert line.index(" stopped") + 1 == header.index("State")


def test_list_prints_json(home: Path) -> None:
    (vm,) = json.loads(tart(home, "list", "--format=json").out)
    accessed = vm.pop("Accessed")
    assert vm == {
        "Source": "local", "Name": "debian", "Disk": 50, "Size": 0, "Running": False, "State": "stopped",
    }  # fmt: skip
    time.strptime(accessed, "%Y-%m-%dT%H:%M:%SZ")


def test_quiet_wins_over_the_format(home: Path) -> None:
    assert tart(home, "list", "--quiet", "--format", "json").out == "debian\n"
    assert tart(home, "list", "-q").out == "debian\n"


def test_list_by_source(home: Path) -> None:
    assert names(home) == "debian\n"
    assert tart(home, "list", "--source", "oci", "--quiet").out == ""
    assert tart(home, "list", "--source", "oci").out == "\n"


def test_list_shows_states_and_sorts_by_name(home: Path) -> None:
    for name in ("b", "Z", "a"):
        assert tart(home, "clone", "debian", name).code == 0
    suspend(home, "a")
    with supervised(home, "b"):
        listed = json.loads(tart(home, "list", "--format", "json").out)
    states = [(vm["Name"], vm["State"], vm["Running"]) for vm in listed]
    assert states == [
        ("Z", "stopped", False),
        ("a", "suspended", False),
        ("b", "running", True),
        ("debian", "stopped", False),
    ]


def test_nothing_broken_keeps_list_from_listing(home: Path) -> None:
    vms = home / "vms"
    copied(vms / "debian", vms / "broken-config")
    (vms / "broken-config" / "config.json").write_text("{")
    copied(vms / "debian", vms / "broken-disk")
    (vms / "broken-disk" / "disk.img").write_bytes(b"QFI\xfb\x00\x00\x00\x03")
    (vms / "no-vm").mkdir()
    (vms / "file").write_text("")
    assert names(home) == "broken-config\nbroken-disk\ndebian\n"
    assert len(json.loads(tart(home, "list", "--format", "json").out)) == 3
    assert tart(home, "get", "broken-config").code == 1


def test_disks_are_shown_in_large_units(home: Path) -> None:
    vm = home / "vms" / "debian"
    beside = sum((vm / name).stat().st_size for name in ("config.json", "nvram.bin"))
    os.truncate(vm / "disk.img", 51_400_000_000 - beside)
    assert " 51 GB " in tart(home, "list").out
    assert json.loads(tart(home, "list", "--format", "json").out)[0]["Disk"] == 51
    assert " 51 GB " in tart(home, "get", "debian").out
    assert json.loads(tart(home, "get", "debian", "--format", "json").out)["Disk"] == 51


def test_get_prints_json_and_a_table(home: Path) -> None:
    document = json.loads(tart(home, "get", "debian", "--format", "json").out)
    size = document.pop("Size")
    assert document == {
        "OS": "linux", "CPU": 4, "Memory": 4096, "Disk": 50, "DiskFormat": "raw", "Display": "1024x768",
        "Running": False, "State": "stopped",
    }  # fmt: skip
    assert isinstance(size, str)
    assert len(size.split(".")[1]) == 3
    header, _ = tart(home, "get", "debian").out.splitlines()
    assert header.split() == ["OS", "CPU", "Memory", "Disk", "DiskFormat", "Size", "Display", "State"]


def test_sizes_have_a_unit_in_text_and_none_in_json() -> None:
    config = VmConfig(arch="amd64")
    as_json = shown(config, VmState.RUNNING, 51_400_000_000, 17_234_000_000, format_="json")
    assert json.loads(as_json)["Disk"] == 51
    assert json.loads(as_json)["Size"] == "17.234"
    assert json.loads(as_json)["Running"] is True
    as_text = shown(config, VmState.RUNNING, 51_400_000_000, 17_234_000_000, format_="text")
    assert " 51 GB " in as_text
    assert " 17 GB " in as_text


def test_only_opening_a_vm_counts_as_a_use(home: Path) -> None:
    vm = home / "vms" / "debian"
    os.utime(vm, (1000, 1000))
    assert tart(home, "list").code == 0
    assert tart(home, "list", "--format", "json").code == 0
    assert vm.stat().st_atime == 1000
    assert tart(home, "get", "debian").code == 0
    assert time.time() - vm.stat().st_atime < 60


# set


def test_set_changes_what_is_named(home: Path) -> None:
    before = config_of(home, "debian")
    inode = (home / "vms" / "debian" / "config.json").stat().st_ino
    words = ["--cpu", "2", "--memory", "1024", "--display", "1234x5678pt", "--display-refit", "--random-mac"]
    assert tart(home, "set", "debian", *words) == Called(0, "", "")
    after = config_of(home, "debian")
    assert (after["cpuCount"], after["memorySize"], after["displayRefit"]) == (2, 1024 * 1024**2, True)
    assert after["display"] == {"width": 1234, "height": 5678, "unit": "pt"}
    assert after["macAddress"] != before["macAddress"]
    assert (home / "vms" / "debian" / "config.json").stat().st_ino == inode


@pytest.mark.parametrize(
    ("words", "display"),
    [
        ("1234x5678", {"width": 1234, "height": 5678}),
        ("1234x5678px", {"width": 1234, "height": 5678, "unit": "px"}),
        ("1200", {"width": 1200, "height": 768}),
        ("foo", {"width": 1024, "height": 768}),
        ("x600px", {"width": 1024, "height": 600, "unit": "px"}),
        ("1x2x3", {"width": 1, "height": 2}),
    ],
)
def test_set_display_never_fails(home: Path, words: str, display: dict[str, object]) -> None:
    assert tart(home, "set", "debian", "--display", words).code == 0
    assert config_of(home, "debian")["display"] == display


def test_set_keeps_the_refit_that_it_is_not_asked_about(home: Path) -> None:
    assert tart(home, "set", "debian", "--no-display-refit").code == 0
    assert tart(home, "set", "debian", "--cpu", "2").code == 0
    assert config_of(home, "debian")["displayRefit"] is False
    assert tart(home, "set", "debian", "--no-display-refit", "--display-refit").code == 0
    assert config_of(home, "debian")["displayRefit"] is True


def test_set_without_options_is_fine(home: Path) -> None:
    before = config_of(home, "debian")
    assert tart(home, "set", "debian") == Called(0, "", "")
    assert config_of(home, "debian") == before


def test_set_grows_a_disk_and_never_shrinks_it(home: Path) -> None:
    disk = home / "vms" / "debian" / "disk.img"
    assert tart(home, "set", "debian", "--disk-size", "60").code == 0
    assert disk.stat().st_size == 60 * 1000**3
    assert tart(home, "set", "debian", "--disk-size", "60").code == 0
    called = tart(home, "set", "debian", "--disk-size", "40", "--cpu", "2")
    assert called.code == 1
    assert "60 GB" in called.err
    assert "40 GB" in called.err
    assert disk.stat().st_size == 60 * 1000**3
    assert config_of(home, "debian")["cpuCount"] == 4


def test_set_replaces_the_disk(home: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new disk" * 64)
    assert tart(home, "set", "debian", "--disk", str(tmp_path / "new")).code == 0
    assert (home / "vms" / "debian" / "disk.img").read_bytes() == b"new disk" * 64
    assert os.listdir(home / "tmp") == []


def test_a_new_mac_address_ends_a_suspension(home: Path) -> None:
    state = suspend(home, "debian")
    assert tart(home, "set", "debian", "--cpu", "2").code == 0
    assert state.exists()
    assert tart(home, "set", "debian", "--random-mac").code == 0
    assert not state.exists()


# create and clone


def test_create_makes_the_disk_that_is_asked_for(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert tart(home, "create", "--linux", "a", "--disk-size", "7").code == 0
    assert (home / "vms" / "a" / "disk.img").stat().st_size == 7 * 1000**3
    assert tart(home, "create", "--linux", "b", "--disk-size=7", "--disk-format", "QCOW2").code == 0
    listed = {vm["Name"]: vm["Disk"] for vm in json.loads(tart(home, "list", "--format", "json").out)}
    assert listed == {"a": 7, "b": 7}
    assert config_of(home, "b")["diskFormat"] == "qcow2"


def test_create_takes_an_image(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "disk").write_bytes(b"a disk" + bytes(2**20))
    subprocess.run(["qemu-img", "convert", "-q", "-O", "qcow2", tmp_path / "disk", tmp_path / "image"], check=True)
    called = tart(home, "create", "--linux", "--from-image", str(tmp_path / "image"), "a", CI="true")
    assert (called.code, called.err) == (0, "")
    with (home / "vms" / "a" / "disk.img").open("rb") as disk:
        assert disk.read(6) == b"a disk"
    assert (home / "vms" / "a" / "disk.img").stat().st_size == 50 * 1000**3
    assert (home / "vms" / "a" / "seed.iso").exists()
    assert os.listdir(home / "tmp") == []


def test_create_and_clone_replace_a_stopped_vm(home: Path) -> None:
    assert tart(home, "clone", "debian", "other").code == 0
    (home / "vms" / "other" / "mark").write_text("old")
    assert tart(home, "clone", "debian", "other").code == 0
    assert not (home / "vms" / "other" / "mark").exists()
    (home / "vms" / "other" / "mark").write_text("old")
    assert tart(home, "create", "--linux", "other").code == 0
    assert not (home / "vms" / "other" / "mark").exists()


@pytest.mark.parametrize("words", [["create", "--linux", "other"], ["clone", "debian", "other"]])
def test_a_running_vm_is_not_replaced(home: Path, words: list[str]) -> None:
    assert tart(home, "clone", "debian", "other").code == 0
    with supervised(home, "other"):
        before = snapshot(home / "vms" / "other")
        called = tart(home, *words)
        assert called.code == 1
        assert '"other" is running' in called.err
        assert snapshot(home / "vms" / "other") == before
    assert os.listdir(home / "tmp") == []


def test_a_clone_has_a_mac_address_of_its_own(home: Path) -> None:
    assert tart(home, "clone", "debian", "other").code == 0
    assert config_of(home, "other")["macAddress"] != config_of(home, "debian")["macAddress"]


def test_a_suspended_vm_is_cloned_with_its_state(home: Path) -> None:
    suspend(home, "debian")
    assert tart(home, "clone", "debian", "other").code == 0
    assert config_of(home, "other")["macAddress"] == config_of(home, "debian")["macAddress"]
    assert (home / "vms" / "other" / "state.vzvmsave").read_bytes() == b"saved"


# ip


def test_ip_prints_the_bare_address_of_a_running_vm(home: Path) -> None:
    record.write(home / "vms" / "debian", record.NetworkRecord(backend="slirp", address="127.64.1.2"))
    assert tart(home, "ip", "debian").code == 1  # what an earlier run left counts for nothing
    with supervised(home, "debian"):
        assert tart(home, "ip", "debian") == Called(0, "127.64.1.2\n", "")
        assert tart(home, "ip", "debian", "--resolver", "dhcp", "--wait", "5").out == "127.64.1.2\n"


def test_ip_waits_until_the_address_is_known(home: Path) -> None:
    with (
        supervised(home, "debian"),
        subprocess.Popen(
            [TART, "ip", "debian", "--wait", "20"], stdout=subprocess.PIPE, text=True, env=surroundings(home)
        ) as asking,
    ):
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(1)
        record.write(home / "vms" / "debian", record.NetworkRecord(backend="slirp", address="127.64.1.2"))
        assert asking.communicate(timeout=30)[0] == "127.64.1.2\n"


def test_ip_gives_up_in_time(home: Path) -> None:
    begun = time.monotonic()
    assert tart(home, "ip", "debian", "--wait", "2").code == 1
    assert 2 <= time.monotonic() - begun < 20


# stop, wait


def test_stop_asks_the_supervisor_and_waits_for_it(home: Path) -> None:
    with supervised(home, "debian") as supervisor:
        assert tart(home, "stop", "debian") == Called(0, "", "")
        assert supervisor.stdout is not None
        assert supervisor.stdout.read() == f"{int(signal.SIGINT)}\n"


@pytest.mark.parametrize("words", [["--timeout", "0"], ["-t", "1"], ["-t=0"]])
def test_stop_forces_a_supervisor_that_does_not_listen(home: Path, words: list[str]) -> None:
    with supervised(home, "debian", obedient=False) as supervisor:
        assert tart(home, "stop", "debian", *words).code == 0
        assert supervisor.wait(5) == -signal.SIGKILL


def test_stop_gives_up_the_state_of_a_suspended_vm(home: Path) -> None:
    state = suspend(home, "debian")
    assert tart(home, "stop", "debian") == Called(0, "", "")
    assert not state.exists()
    again = tart(home, "stop", "debian")
    assert (again.code, again.err.splitlines()[0]) == (2, 'VM "debian" is not running')
    assert "start it" not in again.err


def test_stop_then_delete_of_a_vm_left_running(home: Path) -> None:
    with supervised(home, "debian"):
        assert tart(home, "stop", "debian").code == 0
        assert tart(home, "delete", "debian").code == 0


@pytest.mark.anyio
async def test_a_vm_that_is_being_started_for_long_is_told_from_one_that_does_not_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "_START_PATIENCE", 0.3)
    vm = VmStore(Home(home)).find("debian")
    with supervised(home, "debian"):
        with pytest.raises(ask.StillStarting, match="still being started") as told:
            await request_suspend(vm)
        assert "tart logs debian" in str(told.value.hint)
    with pytest.raises(VmNotRunning):
        await request_suspend(vm)


def test_wait_tells_how_a_vm_ended(home: Path) -> None:
    assert tart(home, "wait", "debian") == Called(0, "never ran\n", "")
    with supervised(home, "debian") as supervisor:
        with pytest.raises(subprocess.TimeoutExpired):
            tart(home, "wait", "debian", timeout=1)
        supervisor.send_signal(signal.SIGINT)
        assert tart(home, "wait", "debian").code == 0


# delete, prune


def test_delete_stops_at_the_first_failure(home: Path) -> None:
    for name in ("a", "c"):
        assert tart(home, "clone", "debian", name).code == 0
    called = tart(home, "delete", "a", "nope", "c")
    assert called.code == 2
    assert "nope" in called.err
    assert names(home) == "c\ndebian\n"


def test_a_suspended_vm_can_be_deleted(home: Path) -> None:
    suspend(home, "debian")
    assert tart(home, "delete", "debian").code == 0


def test_prune_gc_collects(home: Path) -> None:
    (home / "tmp" / "stale").mkdir()
    assert tart(home, "prune", "--gc") == Called(0, "", "")
    assert os.listdir(home / "tmp") == []


# logs


def test_logs_are_shown_to_the_byte(home: Path) -> None:
    (home / "vms" / "debian" / "run.log").write_bytes(b"run\n")
    (home / "vms" / "debian" / "qemu.log").write_bytes(b"qemu\n")
    (home / "vms" / "debian" / "serial.log").write_bytes(b"serial\xff\x1b[0m")
    assert tart(home, "logs", "debian").out == "run\n"
    assert tart(home, "logs", "debian", "--qemu").out == "qemu\n"
    assert os.fsencode(tart(home, "logs", "debian", "--serial").out) == b"serial\xff\x1b[0m"
    assert tart(home, "logs", "debian", "--follow").out == "run\n"


def test_logs_are_followed_to_the_end_of_the_run(home: Path) -> None:
    log = home / "vms" / "debian" / "run.log"
    log.write_text("one\n")
    with supervised(home, "debian") as supervisor:
        with subprocess.Popen(
            [TART, "logs", "-f", "debian"], stdout=subprocess.PIPE, text=True, env=surroundings(home)
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "one\n"
            with log.open("a") as more:
                more.write("two\n")
            assert following.stdout.readline() == "two\n"
            with log.open("a") as more:
                more.write("three\n")
            supervisor.send_signal(signal.SIGINT)
            assert following.stdout.read() == "three\n"
        assert following.returncode == 0


# network log

REFUSAL = {
    "at": "2026-01-02T03:04:05+00:00", "destination": "10.0.0.5", "protocol": "tcp", "port": 443, "packets": 2,
    "rule": "block 10.0.0.0/8",
}  # fmt: skip
REFUSAL_LINE = "2026-01-02T03:04:05+00:00  tcp 10.0.0.5:443  2 packets  block 10.0.0.0/8\n"


def test_what_the_network_refused_is_shown(home: Path) -> None:
    assert tart(home, "network", "log", "debian") == Called(0, "", "")
    (home / "vms" / "debian" / "refusals.log").write_text(json.dumps(REFUSAL) + "\n")
    assert tart(home, "network", "log", "debian") == Called(0, REFUSAL_LINE, "")
    assert json.loads(tart(home, "network", "log", "debian", "--format", "json").out) == REFUSAL


def test_what_the_network_refuses_is_followed_to_the_end_of_the_run(home: Path) -> None:
    log = home / "vms" / "debian" / "refusals.log"
    log.write_text(json.dumps(REFUSAL) + "\n")
    with supervised(home, "debian") as supervisor:
        with subprocess.Popen(
            [TART, "network", "log", "-f", "debian"], stdout=subprocess.PIPE, text=True, env=surroundings(home)
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == REFUSAL_LINE
            with log.open("a") as more:
                more.write(json.dumps(REFUSAL) + "\n")
            assert following.stdout.readline() == REFUSAL_LINE
            supervisor.send_signal(signal.SIGINT)
            assert following.stdout.read() == ""
        assert following.returncode == 0


def test_a_verb_of_verbs_shows_its_help_and_knows_its_own(home: Path) -> None:
    alone = tart(home, "network")
    assert alone == tart(home, "network", "--help") == tart(home, "help", "network")
    assert "\n  log " in alone.out.partition("\nSUBCOMMANDS:\n")[2]
    assert tart(home, "help", "network", "log") == tart(home, "network", "log", "--help")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lst",), "Error: there is no subcommand 'lst'\nHelp:  did you mean list?\nUsage: tart <subcommand>\n"),
        (("network", "nope"), "Error: there is no subcommand 'nope'\nUsage: tart network <subcommand>\n"),
        (("snapshot", "creat"), "Error: there is no subcommand 'creat'\nHelp:  did you mean create?\n"),
        (("help", "snapshot", "creat"), "Error: there is no subcommand 'creat'\nHelp:  did you mean create?\n"),
        (("help", "pull", "it"), "Error: tart pull has no subcommands\n"),
        (
            ("port-forward", "debian", "80", "80"),
            "Error: port 80 of this machine can lead to one port of the guest only",
        ),
    ],
)
def test_words_that_lead_nowhere(home: Path, words: tuple[str, ...], said: str) -> None:
    called = tart(home, *words)
    assert (called.code, called.out) == (64, "")
    assert called.err.startswith(said)


def test_what_cannot_be_exported_is_told_before_it_begins(home: Path, tmp_path: Path) -> None:
    called = tart(home, "export", "nope", str(tmp_path / "x.tvm"))
    assert (called.code, called.out) == (2, "")
    assert not (tmp_path / "x.tvm").exists()


# Refusals: each names the thing, has the right exit code, and changes nothing

REFUSED: list[tuple[list[str], int, str]] = [
    (["create", "x"], 64, "--linux"),
    (["network", "log", "absent"], 2, "absent"),
    (["network", "log"], 64, "<name>"),
    (["create", "--linux"], 64, "<name>"),
    (["create", "--linux", "--disk-size", "70000", "x"], 64, "70000"),
    (["create", "--linux", "--disk-size", "-1", "x"], 64, "--disk-size"),
    (["create", "--linux", "--disk-format", "asif", "x"], 64, "asif"),
    (["create", "--linux", "--disk-format", "ASIF", "x"], 64, "asif"),
    (["create", "--linux", "--disk-format", "invalid", "x"], 64, "invalid"),
    (["create", "--from-ipsw", "latest", "x"], 64, "--from-ipsw"),
    (["create", "--linux", "--from-ipsw", "latest", "x"], 64, "--from-ipsw"),
    (["create", "--linux", "a/b"], 64, "a/b"),
    (["create", "--linux", ""], 64, '""'),
    (["create", "--linux", "."], 64, '"."'),
    (["create", "--linux", ".."], 64, '".."'),
    (["create", "--linux", "x" * 256], 64, "xxx"),
    (["create", "--linux", "--from-distro", "nope:x", "x"], 64, "nope:x"),
    (["create", "--linux", "--from-distro", "debian:bookworm", "--disk-format", "qcow2", "x"], 64, "--disk-format"),
    (["create", "--linux", "--from-distro", "a:b", "--from-image", "c", "x"], 64, "--from-image"),
    (["create", "--linux", "--from-image", "missing-image", "x"], 1, "missing-image"),
    (["create", "--linux", "--from-image", "/dev/null", "--checksum", "md5:0", "x"], 64, "md5:0"),
    (["create", "--linux", "--from-distro", "a:b", "--checksum", "sha256:0", "x"], 64, "--checksum"),
    (["create", "--linux", "--checksum", "sha256:0", "x"], 64, "--checksum"),
    (["create", "--linux", "--arch", "sparc", "x"], 64, "sparc"),
    (["create", "--linux", "--ssh-key", "key", "x"], 64, "--ssh-key"),
    (["create", "--linux", "--from-image", "/dev/null", "--ssh-key", "missing-key", "x"], 1, "missing-key"),
    (["create", "--linux", "--from-image", "/dev/null", "--user-data", "missing-data", "x"], 1, "missing-data"),
    (["create", "--linux", "--from-image", "/dev/null", "--user-data", "/dev/null", "x"], 64, "/dev/null"),
    (["clone", "debian", "b/c"], 64, "b/c"),
    (["clone", "debian", ""], 64, '""'),
    (["clone", "debian", ".."], 64, '".."'),
    (["clone", "debian"], 64, "<new-name>"),
    (["clone", "debian", "b", "--concurrency", "0"], 64, "--concurrency"),
    (["clone", "nope", "b"], 2, "nope"),
    (["clone", "debian", "b", "--stacked"], 64, "debian"),
    (["clone", "--stacked", "ghcr.io/a/b", "x"], 1, "stacked disk"),
    (["set", "nope"], 2, "nope"),
    (["set", "debian", "--cpu", "65536"], 64, "65536"),
    (["set", "debian", "--cpu", "0"], 1, "minimum is 1"),
    (["set", "debian", "--memory", "0"], 1, "minimum"),
    (["set", "debian", "--disk-size", "40"], 1, "40 GB"),
    (["set", "debian", "--disk", "missing-file", "--cpu", "2"], 1, "missing-file"),
    (["get", "nope"], 2, "nope"),
    (["get", "ghcr.io/org/img"], 2, "ghcr.io/org/img"),
    (["get", "../vms/debian"], 2, "../vms/debian"),
    (["get", ""], 2, '""'),
    (["get", "."], 2, '"."'),
    (["get", "debian", "--format", "xml"], 64, "xml"),
    (["get", "incomplete"], 1, "disk.img"),
    (["list", "--source", "foo"], 64, "foo"),
    (["list", "--source", "OCI"], 64, "OCI"),
    (["list", "--format", "xml"], 64, "xml"),
    (["list", "debian"], 64, "debian"),
    (["rename", "nope", "x"], 64, "nope"),
    (["rename", "debian", "a/b"], 64, "a/b"),
    (["rename", "debian", "debian"], 64, "debian"),
    (["rename", "debian", "."], 64, '"."'),
    (["rename", "incomplete", "x"], 64, "incomplete"),
    (["rename", "debian"], 64, "<new-name>"),
    (["stop", "nope"], 2, "nope"),
    (["stop", "debian"], 2, "not running"),
    (["stop", "debian", "--timeout", "x"], 64, "--timeout"),
    (["suspend", "nope"], 2, "nope"),
    (["suspend", "debian"], 2, "not running"),
    (["delete"], 64, "<name>"),
    (["delete", "nope"], 2, "nope"),
    (["delete", "ghcr.io/a/b"], 2, "ghcr.io/a/b"),
    (["delete", ""], 2, '""'),
    (["delete", ".."], 2, '".."'),
    (["prune"], 64, "--gc"),
    (["prune", "--older-than", "x"], 64, "--older-than"),
    (["wait", "nope"], 2, "nope"),
    (["wait", "debian", "--timeout", "4294967296"], 64, "--timeout"),
    (["logs", "nope"], 2, "nope"),
    (["logs", "debian"], 1, "debian"),
    (["logs", "debian", "--serial", "--qemu"], 64, "--serial"),
    (["doctor", "nope"], 2, "nope"),
    (["run", "nope"], 1, "nope"),
    (["run", "incomplete"], 1, "disk.img"),
    (["run", "debian", "--vnc", "--vnc-experimental"], 64, "--vnc-experimental"),
    (["run", "debian", "--net-host", "--net-softnet-control-fd", "3"], 64, "--net-softnet"),
    (["run", "debian", "--net-softnet-control-fd", "x"], 64, "--net-softnet-control-fd"),
    (["run", "debian", "--graphics", "--no-graphics"], 64, "--graphics"),
    (["run", "debian", "--provisioning-opts", "username=a"], 64, "--provisioning-opts"),
    (["run", "debian", "--recovery"], 64, "--recovery"),
    (["run", "debian", "--rosetta=tag"], 64, "--rosetta"),
    (["run", "debian", "--no-trackpad"], 64, "--no-trackpad"),
    (["run", "debian", "--suspendable", "--no-keyboard"], 64, "--no-keyboard"),
    (["run", "debian", "--disk", f"x-{OTHER_ARCH}.iso"], 64, f"x-{OTHER_ARCH}.iso"),
    (["run", "debian", "--wait-ready"], 64, "--detach"),
    (["run", "debian", "--detach", "--wait-ready-timeout", "9"], 64, "--wait-ready"),
    (["run", "debian", "--detach", "--wait-ready", "--wait-ready-timeout", "0"], 64, "--wait-ready-timeout"),
    (["run", "debian", "--dir", "/none/such"], 1, "/none/such does not exist"),
    (["run", "debian", "--dir", "/etc/passwd:ro"], 1, "/etc/passwd is not a folder"),
    (["run", "debian", "--dir", "/tmp", "--dir", "/var"], 64, "needs a name"),
    (["run", "debian", "--dir", "/tmp:tag="], 64, "the tag at character 10 is empty"),
    (["run", "debian", "--dir", "/tmp", "--suspendable"], 64, "--dir"),
    (["run"], 64, "<name>"),
    (["ip", "nope"], 2, "nope"),
    (["ip", "debian"], 1, "is it running"),
    (["ip", "debian", "--resolver", "agent"], 1, "agent"),
    (["ip", "--resolver=arp", "debian", "--wait", "0"], 1, "ARP"),
    (["ip", "debian", "--resolver", "foo"], 64, "foo"),
    (["ip", "debian", "--wait", "65536"], 64, "65536"),
    (["exec", "nope", "ls"], 2, "nope"),
    (["exec", "debian", "ls"], 2, "not running"),
    (["exec", "debian"], 64, "<command>"),
    (["exec", "debian", "--"], 64, "command"),
    (["exec", "-x", "debian", "ls"], 64, "-x"),
    (["pull"], 64, "<remote-name>"),
    (["pull", "debian:latest"], 1, "position 8"),
    (["--bogus"], 64, "--bogus"),
]


@pytest.mark.parametrize(("words", "code", "named"), REFUSED, ids=[" ".join(words)[:60] for words, _, _ in REFUSED])
def test_a_refusal(home: Path, words: list[str], code: int, named: str) -> None:
    incomplete = home / "vms" / "incomplete"
    incomplete.mkdir()
    (incomplete / "config.json").write_text("{}")
    before = snapshot(home)
    called = tart(home, *words)
    assert called.code == code
    assert named in called.err
    assert called.out == ""
    assert "Traceback" not in called.err
    opened_while_arguments_are_read = words in (["run", "nope"], ["run", "incomplete"])
    assert called.err.startswith("Error: ") == (code == 64 or opened_while_arguments_are_read)
    assert snapshot(home) == before


def test_delete_of_a_running_vm_is_refused(home: Path) -> None:
    with supervised(home, "debian"):
        before = snapshot(home)
        called = tart(home, "delete", "debian")
        assert called.code == 1
        assert '"debian" is running' in called.err
        assert snapshot(home) == before


def test_a_running_vm_is_not_run_again(home: Path) -> None:
    with supervised(home, "debian"):
        before = snapshot(home / "vms")
        called = tart(home, "run", "debian", "--no-graphics")
        assert called.code == 2
        assert '"debian" is already running' in called.err
        assert snapshot(home / "vms") == before


def test_a_new_disk_for_a_stacked_vm_is_refused_before_anything_is_saved(home: Path, tmp_path: Path) -> None:
    vm = home / "vms" / "debian"
    (vm / "disk.img").unlink()
    (vm / "overlay.asif").write_bytes(b"shdw")
    (vm / "manifest.json").write_text("{}")
    (tmp_path / "new").write_bytes(bytes(512))
    before = snapshot(home)
    called = tart(home, "set", "debian", "--cpu", "4", "--disk", str(tmp_path / "new"))
    assert called.code == 64
    assert "stacked disk" in called.err
    assert snapshot(home) == before
    assert names(home) == "debian\n"
    assert tart(home, "list").code == 0
    assert tart(home, "clone", "debian", "x").code == 1
