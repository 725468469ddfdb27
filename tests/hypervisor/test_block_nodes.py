"""Disks become block nodes, claimed so that nobody else writes to them; a real QEMU opens them all."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from booted import booted
from tartlet.errors import FileTrouble
from tartlet.host.locks import try_file_lock
from tartlet.hypervisor import nbd
from tartlet.hypervisor.block_nodes import DiskInUse, DiskNotAllowed, attached, root_disk
from tartlet.hypervisor.devices import BlockDevice, TooManyDevices
from tartlet.hypervisor.disk_options import DiskOptions, UnknownDiskOption, parse_disk_option, parse_root_disk_options
from tartlet.hypervisor.qmp import MonitorUnreachable, RunState

MIB = 1 << 20


def node_of(device: BlockDevice) -> dict[str, Any]:
    (node,) = device.nodes
    return cast("dict[str, Any]", json.loads(node))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "data, with a comma.img"
    path.touch()
    os.truncate(path, MIB)
    return path


@pytest.mark.parametrize(
    ("options", "direct", "no_flush", "read_only"),
    [
        ("", False, False, False),
        ("ro", False, False, True),
        ("sync=none", False, True, False),
        ("sync=fsync", False, False, False),
        ("sync=full,caching=uncached", True, False, False),
        ("caching=automatic", False, False, False),
    ],
)
def test_the_root_disk(options: str, direct: bool, no_flush: bool, read_only: bool) -> None:
    device = root_disk("/vm/disk.img", "qcow2", parse_root_disk_options(options))
    node = node_of(device)
    assert node["driver"] == "qcow2"
    assert node["file"]["filename"] == "/vm/disk.img"
    assert node["cache"] == node["file"]["cache"] == {"direct": direct, "no-flush": no_flush}
    assert node["read-only"] is node["file"]["read-only"] is read_only
    assert "bootindex=1" in device.words()[-1]


def test_unknown_option_values_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UnknownDiskOption):
        root_disk("/vm/disk.img", "raw", DiskOptions(caching="often"))
    image = tmp_path / "x"
    image.touch()
    with pytest.raises(UnknownDiskOption), attached(parse_disk_option(f"{image}:sync=often"), index=1):
        pass
    with pytest.raises(UnknownDiskOption), attached(parse_disk_option("nbd://127.0.0.1:sync=fsync"), index=1):
        pass


def test_an_image_is_locked_while_it_is_attached(image: Path) -> None:
    with attached(parse_disk_option(str(image)), index=1) as device:
        assert node_of(device)["file"] | {"cache": 0} == {
            "driver": "file", "filename": str(image), "read-only": False, "discard": "unmap", "cache": 0,
        }  # fmt: skip
        with pytest.raises(DiskInUse, match="already in use"), attached(parse_disk_option(str(image)), index=2):
            pass
        with attached(parse_disk_option(f"{image}:ro"), index=2) as second:
            assert second.read_only
    lock = try_file_lock(image)
    assert lock is not None
    os.close(lock)


def test_a_tilde_is_the_home_folder(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(image.parent))
    with attached(parse_disk_option(f"~/{image.name}:ro"), index=1) as device:
        assert node_of(device)["file"]["filename"] == str(image)


def test_missing_images_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileTrouble, match="none"), attached(parse_disk_option(str(tmp_path / "none")), index=1):
        pass
    with pytest.raises(FileTrouble), attached(parse_disk_option(str(tmp_path)), index=1):
        pass


@pytest.fixture
def unwritable(image: Path) -> Iterator[Path]:
    """An image on a file system that even root may not write to."""
    folder = image.parent / "unwritable"
    folder.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", image.parent, folder], check=True)
    yield folder / image.name
    subprocess.run(["umount", folder], check=True)


@pytest.mark.needs_root
def test_an_image_that_may_not_be_written_is_offered_read_only(unwritable: Path) -> None:
    writable = attached(parse_disk_option(str(unwritable)), index=1)
    with pytest.raises(DiskNotAllowed, match="writing") as refusal, writable:
        pass
    assert ":ro" in (refusal.value.hint or "")
    with attached(parse_disk_option(f"{unwritable}:ro"), index=1):
        pass


@pytest.fixture
def loop(image: Path) -> Iterator[str]:
    device = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
    yield device.stdout.strip()
    subprocess.run(["losetup", "--detach", device.stdout.strip()], check=True)


@pytest.mark.needs_root
def test_a_block_device_is_opened_alone_and_not_while_it_is_mounted(loop: str, tmp_path: Path) -> None:
    with attached(parse_disk_option(loop), index=1) as device:
        assert node_of(device)["file"]["driver"] == "host_device"
        with pytest.raises(DiskInUse), attached(parse_disk_option(loop), index=2):
            pass
        with attached(parse_disk_option(f"{loop}:ro"), index=2):
            pass
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    point = tmp_path / "mounted"
    point.mkdir()
    subprocess.run(["mount", loop, point], check=True)
    try:
        with pytest.raises(DiskInUse) as refusal, attached(parse_disk_option(loop), index=1):
            pass
        assert "unmount" in (refusal.value.hint or "")
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.mark.parametrize(
    ("url", "server", "export"),
    [
        ("nbd://host", {"type": "inet", "host": "host", "port": "10809"}, None),
        ("nbd://host:5/a%20b/c", {"type": "inet", "host": "host", "port": "5"}, "a b/c"),
        ("nbd://[::1]:5/", {"type": "inet", "host": "::1", "port": "5"}, None),
        ("nbd+unix:///disk?socket=/run/s", {"type": "unix", "path": "/run/s"}, "disk"),
    ],
)
def test_addresses_of_network_disks(url: str, server: dict[str, str], export: str | None) -> None:
    node, extra = nbd.client(url, "tls1")
    assert (node["server"], node.get("export"), node["open-timeout"], extra) == (server, export, 30, ())


@pytest.mark.parametrize("url", ["nbd:///disk", "nbd://host:x/", "nbd+unix:///disk"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(nbd.BadUrl) as refusal:
        nbd.client(url, "tls1")
    assert "nbd://HOST" in (refusal.value.hint or "")


def test_an_encrypted_disk_needs_the_certificate_of_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(nbd.CertificatesMissing, match="encrypted"):
        nbd.client("nbds://host", "tls1")
    (tmp_path / "tartlet" / "nbd").mkdir(parents=True)
    (tmp_path / "tartlet" / "nbd" / "ca-cert.pem").touch()
    node, extra = nbd.client("nbds://host", "tls1")
    assert node["tls-creds"] == "tls1"
    assert extra[1].endswith(f"dir={tmp_path}/tartlet/nbd")


def test_places_on_the_bus_run_out_with_a_clear_word() -> None:
    def disk(index: int) -> BlockDevice:
        return BlockDevice(nodes=(), node="x", index=index)

    places = [disk(index).words()[-1].rpartition("addr=")[2] for index in range(15)]
    assert len(set(places)) == 15
    with pytest.raises(TooManyDevices, match="at most 15"):
        disk(15).words()


@contextmanager
def served(folder: Path, *more: str) -> Generator[tuple[int, Path]]:
    """An NBD server on a TCP port of the loopback address and on a Unix socket."""
    unix = folder / "nbd.sock"
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as servers:
        activated = f'exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec nbdkit "$@"'  # nobody takes the port
        tcp = ["bash", "-c", activated, "nbdkit"]
        local = ["nbdkit", "-U", str(unix)]
        for number, words in enumerate((tcp, local)):
            ready = folder / f"ready-{number}"
            server = servers.enter_context(
                subprocess.Popen(
                    [*words, "--foreground", "-P", str(ready), *more, "memory", "1M"], pass_fds=[listener.fileno()]
                )
            )
            servers.callback(server.kill)
            while not ready.exists():
                assert server.poll() is None
        yield listener.getsockname()[1], unix


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority and a server's certificate for the loopback address, all in one folder."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority = ["-addext", "keyUsage=keyCertSign", "-subj", "/CN=authority"]
    server = [
        "-subj",
        "/CN=server",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-addext",
        "basicConstraints=CA:FALSE",
    ]
    server += ["-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=serverAuth"]
    signed = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem"]
    for name, more in (("ca", authority), ("server", server + signed)):
        words = [*make, "-keyout", f"{name}-key.pem", "-out", f"{name}-cert.pem", *more]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.anyio
@pytest.mark.parametrize("trusted", [True, False])
async def test_an_encrypted_disk_is_opened_when_its_server_can_be_trusted(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    if shutil.which("nbdkit") is None or shutil.which("openssl") is None:
        pytest.skip("needs nbdkit and openssl")
    known = tmp_path / "config" / "tartlet" / "nbd"
    known.mkdir(parents=True)
    shutil.copy(certificates / ("ca-cert.pem" if trusted else "server-cert.pem"), known / "ca-cert.pem")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with served(tmp_path, "--tls=require", f"--tls-certificates={certificates}") as (port, unix), ExitStack() as held:
        urls = (f"nbds://127.0.0.1:{port}", f"nbds+unix:///?socket={unix}")
        disks = [
            held.enter_context(attached(parse_disk_option(url), index=index)) for index, url in enumerate(urls, start=1)
        ]
        if trusted:
            async with booted(tmp_path, more=tuple(disks)) as vm:
                assert await vm.monitor.status() is RunState.RUNNING
        else:
            with pytest.raises(MonitorUnreachable):
                async with booted(tmp_path, more=tuple(disks)):
                    pass
            assert "certificate" in (tmp_path / "qemu.log").read_text().lower()


@pytest.mark.anyio
@pytest.mark.needs_root
async def test_a_real_qemu_opens_every_kind(tmp_path: Path, image: Path, loop: str) -> None:
    if shutil.which("nbdkit") is None:
        pytest.skip("needs nbdkit")
    overlay, plain = tmp_path / "overlay.qcow2", tmp_path / "plain.img"
    plain.touch()
    os.truncate(plain, MIB)
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "plain.img", "-F", "raw", str(overlay)]
    subprocess.run(made, check=True)  # noqa: ASYNC221
    uncached = tmp_path / "uncached.img"
    uncached.touch()
    os.truncate(uncached, MIB)
    with served(tmp_path) as (port, unix), ExitStack() as held:
        values = [
            (f"{loop}:sync=none", "raw"),
            (str(overlay), "qcow2"),
            (f"{uncached}:caching=uncached,sync=none", "raw"),
            (f"{image}:ro", "raw"),
            (f"nbd://127.0.0.1:{port}", "raw"),
            (f"nbd+unix:///?socket={unix}", "raw"),
        ]
        disks = [
            held.enter_context(attached(parse_disk_option(value), index=index, kind=kind))
            for index, (value, kind) in enumerate(values, start=1)
        ]
        async with booted(tmp_path, more=tuple(disks)) as vm:
            nodes = cast("list[dict[str, Any]]", await vm.monitor._ask("query-named-block-nodes", {"flat": True}))
            drivers = {entry["node-name"]: (entry["drv"], entry["ro"]) for entry in nodes}
            assert drivers["block1"] == drivers["block3"] == drivers["block5"] == drivers["block6"] == ("raw", False)
            assert drivers["block2"] == ("qcow2", False)
            assert drivers["block4"] == ("raw", True)
