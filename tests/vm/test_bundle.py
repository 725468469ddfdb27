"""The archive for bug reports: it has what helps and nothing that hurts."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from tartlet.host.paths import Home
from tartlet.vm.bundle import redacted, write_bundle
from tartlet.vm.doctor import Finding, Verdict
from tartlet.vm.stored import config_file
from tartlet.vm.stored.model import VmConfig
from tartlet.vm.stored.store import VmStore


@pytest.mark.parametrize(
    ("text", "gone", "kept"),
    [
        ("VNC server is running at vnc://:lamp-acid-tree-moon@127.0.0.1:5900", "lamp-acid", "127.0.0.1:5900"),
        ("password: hunter2 more", "hunter2", "more"),
        ('{"password" : "hunter 2", "user": "x"}', "hunter 2", '"user": "x"'),
        ("Authorization=Bearerabc", "Bearerabc", ""),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\nafter", "abc", "after"),
        ('"ecid" : "SECRETID"', "SECRETID", '"ecid"'),
        ("mac 7a:65:e4:3f:b2:01 here", "7a:65:e4", "3f:b2:01 here"),
        ("/homes/me/.tart/vms/x/disk.img", "/homes/me", "TART_HOME/vms/x/disk.img"),
    ],
)
def test_secrets_are_taken_out_and_the_rest_stays(text: str, gone: str, kept: str) -> None:
    shown = redacted(text, Path("/homes/me/.tart"))
    assert gone not in shown
    assert kept in shown


def test_a_bundle_holds_logs_and_configs_but_no_disk_and_no_first_boot_data(tmp_path: Path) -> None:
    store = VmStore(Home(tmp_path / "home").prepared())
    with store.work_folder() as work:
        config_file.create(work / "config.json", VmConfig(arch="amd64", mac_address="7a:65:e4:3f:b2:01"))
        for name in ("nvram.bin", "disk.img", "seed.iso", "state.vzvmsave"):
            (work / name).write_bytes(b"private")
        (work / "run.log").write_text("token=abc\nall well\n")
        (work / "serial.log").write_bytes(b"x" * 300_000 + b"last words")
        vm = store.install(work, "vm")
    target = tmp_path / "bundle.tar.gz"
    findings = [Finding(topic="home", verdict=Verdict.OK, text=f"{store.home.root} is fine")]
    write_bundle(target, store, findings, [vm])
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as archive:
        told = {name: archive.extractfile(name) for name in archive.getnames()}
        contents = {name: file.read().decode() for name, file in told.items() if file is not None}
    assert set(contents) == {"doctor.json", "vms/vm/config.json", "vms/vm/run.log", "vms/vm/serial.log"}
    assert "TART_HOME is fine" in contents["doctor.json"]
    assert "all well" in contents["vms/vm/run.log"]
    assert "abc" not in contents["vms/vm/run.log"]
    assert contents["vms/vm/serial.log"].endswith("last words")
    assert len(contents["vms/vm/serial.log"]) == 256 * 1024
    assert "7a:65:e4" not in contents["vms/vm/config.json"]
