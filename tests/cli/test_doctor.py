"""What `doctor` finds, and what it hands out for a bug report."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from command import tart


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    assert tart(home, "create", "--linux", "debian").code == 0
    return home


def test_findings_as_text_and_json(home: Path) -> None:
    called = tart(home, "doctor", "debian", "--json")
    found = json.loads(called.out)
    assert called.code == int(any(one["Verdict"] == "problem" for one in found))
    topics = {one["Topic"] for one in found}
    assert topics >= {"versions", "accelerator", "qemu", "firmware", "network", "space", "left-overs", "VM debian"}
    assert {"shared folders", "web console"} <= topics
    text = tart(home, "doctor", "debian").out
    assert [topic for topic in topics if f"{topic}: " not in text] == []


@pytest.mark.parametrize(
    ("settings", "topic", "told"),
    [
        ('backend = "userns"\n', "firewalls", []),
        ('backend = "bridge"\n', "firewalls", [True]),
        ("backend = [\n", "network", [True]),
    ],
    ids=["own", "hosts", "broken"],
)
def test_what_the_networks_settings_are_about(home: Path, settings: str, topic: str, told: list[bool]) -> None:
    folder = home.parent / "config"
    (folder / "tartlet").mkdir(parents=True)
    (folder / "tartlet" / "network.toml").write_text(settings)
    found = json.loads(tart(home, "doctor", "--json", XDG_CONFIG_HOME=str(folder)).out)
    texts = [one["Text"] for one in found if one["Topic"] == topic]
    about = "network.toml: " if topic == "network" else ""
    assert [about in text for text in texts if about in text][:1] == told


def test_left_overs_are_shown_and_left(home: Path) -> None:
    (home / "tmp" / "stale").mkdir()
    found = json.loads(tart(home, "doctor", "--json").out)
    assert [one["Verdict"] for one in found if one["Topic"] == "left-overs"] == ["note"]
    assert (home / "tmp" / "stale").exists()


def test_a_bundle_is_written_for_its_owner_alone(home: Path, tmp_path: Path) -> None:
    (home / "vms" / "debian" / "run.log").write_text("VNC server is running at vnc://:one-two-three@127.0.0.1:5901\n")
    target = tmp_path / "report.tar.gz"
    assert str(target) in tart(home, "doctor", "debian", "--bundle", str(target)).err
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as archive:
        names = archive.getnames()
        log = archive.extractfile("vms/debian/run.log")
        assert log is not None
        with log:
            text = log.read()
    assert "doctor.json" in names
    assert b"127.0.0.1:5901" in text
    assert b"one-two-three" not in text
