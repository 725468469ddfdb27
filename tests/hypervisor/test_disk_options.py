"""The grammar of `--disk` and `--root-disk-opts` (the tables of the original's behaviour)."""

from __future__ import annotations

import pytest

from tartlet.hypervisor.disk_options import (
    SYNC_OF_DEVICES,
    DiskOptions,
    EmptyDiskPath,
    UnknownDiskOption,
    parse_disk_option,
    parse_root_disk_options,
)

NONE_GIVEN = DiskOptions()
READ_ONLY = DiskOptions(read_only=True)


@pytest.mark.parametrize(
    ("value", "path", "options"),
    [
        ("disk.bin", "disk.bin", NONE_GIVEN),
        ("ubuntu.iso:ro", "ubuntu.iso", READ_ONLY),
        ("/dev/disk0", "/dev/disk0", NONE_GIVEN),
        ("ghcr.io/cirruslabs/xcode:16.0:ro", "ghcr.io/cirruslabs/xcode:16.0", READ_ONLY),
        ("ghcr.io/cirruslabs/xcode:16.0", "ghcr.io/cirruslabs/xcode:16.0", NONE_GIVEN),
        ("nbd://localhost:10809/myDisk:sync=none", "nbd://localhost:10809/myDisk", DiskOptions(sync="none")),
        ("disk.img:ro,sync=none", "disk.img", DiskOptions(read_only=True, sync="none")),
        ("disk.img:caching=uncached", "disk.img", DiskOptions(caching="uncached")),
        ("disk.img:whatever,ro", "disk.img", READ_ONLY),
        ("disk.img:whatever", "disk.img:whatever", NONE_GIVEN),
        ("a::b", "a:b", NONE_GIVEN),
    ],
)
def test_a_disk_value_is_taken_apart(value: str, path: str, options: DiskOptions) -> None:
    argument = parse_disk_option(value)
    assert (argument.path, argument.options) == (path, options)


@pytest.mark.parametrize("value", ["x,ro", "ro", ":ro", "", ":"])
def test_a_value_of_which_only_options_are_left_is_refused(value: str) -> None:
    with pytest.raises(EmptyDiskPath) as refusal:
        parse_disk_option(value)
    assert refusal.value.exit_code == 64


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("", NONE_GIVEN),
        ("ro", READ_ONLY),
        ("sync=fsync,caching=cached", DiskOptions(sync="fsync", caching="cached")),
        ("sync=none,sync=full", DiskOptions(sync="full")),
        ("nonsense", NONE_GIVEN),
    ],
)
def test_root_disk_options(value: str, options: DiskOptions) -> None:
    assert parse_root_disk_options(value) == options


def test_unknown_values_are_named_with_those_that_exist() -> None:
    with pytest.raises(UnknownDiskOption, match=r"'slow'.*sync=") as refusal:
        DiskOptions(sync="slow").checked_sync()
    assert refusal.value.hint == "use one of none, fsync, full"
    assert refusal.value.exit_code == 1
    with pytest.raises(UnknownDiskOption):
        DiskOptions(sync="fsync").checked_sync(SYNC_OF_DEVICES)
    with pytest.raises(UnknownDiskOption, match="caching="):
        DiskOptions(caching="x").checked_caching()


@pytest.mark.parametrize(
    "url", ["nbd://h/e", "nbds://h", "nbd+unix:///?socket=/s", "nbds+unix:///?socket=/s", "NBD://h"]
)
def test_network_disks_are_known_by_their_scheme(url: str) -> None:
    assert parse_disk_option(url).is_nbd


@pytest.mark.parametrize("path", ["nbd", "./nbd.img", "http://x", "disk.img"])
def test_other_paths_are_no_network_disks(path: str) -> None:
    assert not parse_disk_option(path).is_nbd
