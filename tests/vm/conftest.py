"""What the tests of whole VMs share: one network, and one tiny guest that was booted and suspended."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from guest_images import debian_image
from made_once import made_once
from namespaces import Namespace, namespace
from registry_fixtures import before, registry_host
from vm_lab import Lab, made

__all__ = ["before", "debian", "network", "registry_host", "stopped", "stopped_home", "suspended", "suspended_debian"]


@pytest.fixture(scope="session")
def network() -> Generator[Namespace]:
    """A network that leads nowhere, with an uplink, so that passt can be used."""
    with namespace(uplink=True) as inside:
        yield inside


@pytest.fixture(scope="session")
def stopped_home(tmp_path_factory: pytest.TempPathFactory, network: Namespace) -> Lab:
    """`mini`, stopped, on a raw disk. Never to be changed: copy it."""
    return made(tmp_path_factory.mktemp("stopped") / "home", network)


@pytest.fixture(scope="session")
def suspended_home(tmp_path_factory: pytest.TempPathFactory, stopped_home: Lab) -> Lab:
    """`mini`, suspended with its agent answering, on an overlay. Never to be changed: copy it."""

    def make(folder: Path) -> None:
        lab = stopped_home.copied(folder / "home")
        _freeze_disk(lab, "mini")
        with lab.running():
            lab.sh("cat /proc/sys/kernel/random/boot_id")  # Linux makes it when it is first read
            _suspend(lab, "mini")

    return Lab(home=made_once(tmp_path_factory, "suspended", make) / "home", network=stopped_home.network)


@pytest.fixture
def stopped(stopped_home: Lab, tmp_path: Path) -> Generator[Lab]:
    """A home of the test's own with `mini`, stopped, on a raw disk."""
    lab = stopped_home.copied(tmp_path / "home")
    yield lab
    _all_ended(lab)


@pytest.fixture
def suspended(suspended_home: Lab, tmp_path: Path) -> Generator[Lab]:
    """A home of the test's own with `mini`, suspended with its agent answering, on an overlay."""
    lab = suspended_home.copied(tmp_path / "home")
    yield lab
    _all_ended(lab)


@pytest.fixture(scope="session")
def suspended_debian_home(tmp_path_factory: pytest.TempPathFactory, network: Namespace) -> Lab:
    """`debian`, a whole system with our own agent, suspended, on an overlay. Never to be changed: copy it.

    Its disk was made larger before the first boot.
    """

    def make(folder: Path) -> None:
        lab = Lab(home=folder / "home", network=network)
        lab.done("create", "--linux", "debian")
        lab.done("set", "debian", "--disk", str(debian_image()), "--cpu", "2", "--memory", "768", timeout=200)
        lab.done("set", "debian", "--disk-size", "12")
        _freeze_disk(lab, "debian")
        with lab.running("debian", timeout=320):
            _suspend(lab, "debian")

    return Lab(home=made_once(tmp_path_factory, "debian", make) / "home", network=network)


@pytest.fixture
def suspended_debian(suspended_debian_home: Lab, tmp_path: Path) -> Generator[Lab]:
    """A home of the test's own with `debian`, suspended with its agents answering."""
    lab = suspended_debian_home.copied(tmp_path / "home")
    yield lab
    _all_ended(lab)


@pytest.fixture
def debian(suspended_debian: Lab) -> Generator[Lab]:
    """A home of the test's own in which `debian` runs: two at a time would have the same MAC address."""
    with suspended_debian.running("debian"):
        yield suspended_debian


def _freeze_disk(lab: Lab, name: str) -> None:
    """Which a clone does where files cannot share blocks."""
    lab.done("clone", name, "other")
    lab.done("delete", "other")


def _suspend(lab: Lab, name: str) -> None:
    lab.done("suspend", name)
    assert "suspended" in lab.done("wait", name, timeout=120)


def _all_ended(lab: Lab) -> None:
    for folder in (lab.home / "vms").iterdir():
        lab.end(folder.name)
