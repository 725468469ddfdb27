"""Names of images in the verbs that know them: list, get, fqn, delete, and those that only take VMs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cached_images import digest, put
from command import Called, tart
from stacked_images import stacked_manifest
from tartlet.host import access_time
from tartlet.host.paths import Home
from tartlet.image.cache.cache import MARK, ImageCache
from tartlet.image.format.manifest import digest_of
from tartlet.image.format.reference import parse

ONE = "ghcr.io/org/vm:one"
BY_DIGEST = f"ghcr.io/org/vm@{digest(1)}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def cache(home: Path) -> ImageCache:
    """A cache with one image that has one tag."""
    found = ImageCache(Home(home).prepared())
    image = put(found, ONE, 1)
    access_time.mark(image.path, 1_700_000_000)
    return found


@pytest.mark.usefixtures("cache")
def test_each_tag_and_each_digest_is_listed_behind_the_vms(home: Path) -> None:
    tart(home, "create", "--linux", "--disk-size", "1", "zeta")
    assert tart(home, "list", "--quiet").out == f"zeta\n{ONE}\n{BY_DIGEST}\n"
    assert tart(home, "list", "--quiet", "--source", "local").out == "zeta\n"
    assert tart(home, "list", "--quiet", "--source", "oci").out == f"{ONE}\n{BY_DIGEST}\n"
    told = json.loads(tart(home, "list", "--source", "oci", "--format", "json").out)
    assert [entry["Name"] for entry in told] == [ONE, BY_DIGEST]
    for entry in told:
        assert entry == {
            "Source": "OCI", "Name": entry["Name"], "Disk": 0, "Size": 0, "Accessed": "2023-11-14T22:13:20Z",
            "Running": False, "State": "stopped",
        }  # fmt: skip
    lines = tart(home, "list", "--source", "oci").out.splitlines()
    assert lines[0].split() == ["Source", "Name", "Disk", "Size", "Accessed", "State"]
    assert lines[1].startswith(f"OCI    {ONE}")
    assert "17 kB" in lines[1]


def test_listing_changes_no_access_date(home: Path, cache: ImageCache) -> None:
    tart(home, "list")
    assert access_time.of(cache.find(parse(ONE)).path) == 1_700_000_000


def test_a_damaged_image_is_listed_all_the_same(home: Path, cache: ImageCache) -> None:
    (cache.find(parse(ONE)).path / "config.json").write_text("{")
    (put(cache, "ghcr.io/org/other:one", 2).path / "disk.img").write_bytes(b"QFI\xfb")
    called = tart(home, "list")
    assert (called.code, called.err) == (0, "")
    assert len(called.out.splitlines()) == 5


def test_a_stacked_image_that_another_program_cached_is_listed_as_its_guest_sees_it(
    home: Path, cache: ImageCache
) -> None:
    manifest = stacked_manifest().encoded()
    name = parse("ghcr.io/org/stacked:one")
    image = put(cache, str(name), 3)
    image.disk_path.unlink()
    image.manifest_path.write_bytes(manifest)
    lines = tart(home, "list").out.splitlines()
    assert [line.split()[2:4] for line in lines if "stacked:one" in line] == [["4", "kB"]]
    assert tart(home, "get", str(name)).code == 0
    assert tart(home, "delete", str(name)).code == 0
    assert digest_of(manifest) not in tart(home, "list").out


def test_get_shows_a_cached_image(home: Path, cache: ImageCache) -> None:
    told = json.loads(tart(home, "get", "--format", "json", ONE).out)
    assert (told["OS"], told["CPU"], told["State"]) == ("linux", 1, "stopped")
    assert access_time.of(cache.find(parse(ONE)).path) > 1_700_000_000
    called = tart(home, "get", "ghcr.io/org/vm:two")
    assert (called.code, called.out) == (2, "")


@pytest.mark.usefixtures("cache")
def test_fqn(home: Path) -> None:
    assert tart(home, "fqn", ONE) == Called(0, f"{BY_DIGEST}\n", "")
    elsewhere = f"ghcr.io/never/pulled@{digest(9)}"
    assert tart(home, "fqn", elsewhere) == Called(0, f"{elsewhere}\n", "")
    assert tart(home, "fqn", "debian") == Called(0, "debian\n", "")
    called = tart(home, "fqn", "ghcr.io/never/pulled")
    assert called.code == 1
    assert "ghcr.io/never/pulled" in called.err
    assert "fqn" not in tart(home, "--help").out


def test_delete_takes_the_tag_and_with_the_last_one_the_image(home: Path, cache: ImageCache) -> None:
    cache.link(parse("ghcr.io/org/vm:two"), digest(1))
    assert tart(home, "delete", ONE) == Called(0, "", "")
    assert len(cache.images()) == 1
    assert tart(home, "delete", "ghcr.io/org/vm:two").code == 0
    assert cache.images() == []
    assert tart(home, "delete", ONE).code == 2


def test_delete_spares_what_was_pulled_by_digest(home: Path, cache: ImageCache) -> None:
    image = cache.link(parse(BY_DIGEST), digest(1))
    assert image
    assert (image.path / MARK).exists()
    tart(home, "delete", ONE)
    assert [str(one.name) for one in cache.names()] == [BY_DIGEST]
    assert tart(home, "delete", BY_DIGEST).code == 0
    assert cache.names() == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("verb", ["run", "set", "ip", "stop", "suspend"])
def test_a_verb_for_vms_says_how_to_make_one_of_an_image(home: Path, verb: str) -> None:
    called = tart(home, verb, ONE)
    assert called.code == (1 if verb == "run" else 2)
    assert called.err.splitlines() == [
        f'{"Error: " if verb == "run" else ""}the specified VM "{ONE}" does not exist',
        f"it names an image: make a VM of it first with tart clone {ONE} NAME",
    ]


@pytest.mark.usefixtures("cache")
def test_the_shell_offers_them_where_they_fit(home: Path) -> None:
    for verb, fits in (("delete", True), ("clone", True), ("pull", True), ("get", True), ("run", False), ("ip", False)):
        offered = tart(home, _TART_COMPLETE="fish", COMP_WORDS=f"tart\n{verb}", COMP_CWORD="ghcr").out
        assert ("ghcr.io/org/vm" in offered) == fits, verb
