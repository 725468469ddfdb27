"""First-boot data: what is refused, what stands on the seed disk, what a clone changes, what a guest makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from booted import in_guest
from guest_images import DebianMachine, debian_image, debian_machine, overlay_on
from machines import text_in
from tartlet.build.seed import SeedDamaged, read_seed, reseed, valid_hostname, write_seed
from tartlet.build.user_data import conventional_user_data, read_ssh_keys, read_user_data
from tartlet.errors import FileTrouble, InvalidArgument
from tartlet.share.arguments import grouped
from tartlet.share.serving import serving

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKk8qFkNqJ0Lq8m3W3Q9yQ2gH9yZ8j8rG5o3l1y0T1vW somebody@somewhere"

NETWORK = b'{"version": 2, "ethernets": {}}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"#cloud-config\npackages: [git]\n",
        b"#!/bin/sh\necho hello\n",
        b"## template: jinja\n#cloud-config\n{}\n",
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed\n",
        b"\x1f\x8bzipped",
    ],
)
def test_every_form_of_user_data_is_taken_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "user-data").write_bytes(content)
    assert read_user_data(tmp_path / "user-data") == content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"packages: [git]\n", "begins with 'packages"),
        (b"\xef\xbb\xbf#cloud-config\n", "begins with"),
        (b"# cloud-config\n", "begins with"),
        (b"#cloud-config\n" + b"#" * (1 << 20), "larger than 1 MiB"),
    ],
    ids=["nothing", "blank", "plain", "byte order mark", "a comment", "large"],
)
def test_user_data_that_cloud_init_would_ignore_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "user-data").write_bytes(content)
    with pytest.raises(InvalidArgument, match=why):
        read_user_data(tmp_path / "user-data")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_user_data, read_ssh_keys):
        with pytest.raises(FileTrouble, match="absent"):
            read(tmp_path / "absent")


def test_public_keys_are_read_with_options_and_comments(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f'# mine\n{KEY}\n\nno-pty,command="true" {KEY}\n')
    assert read_ssh_keys(tmp_path / "keys") == (KEY, f'no-pty,command="true" {KEY}')


def test_keys_that_ssh_keygen_makes_are_taken(tmp_path: Path) -> None:
    for kind in ("ed25519", "ecdsa", "rsa"):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / kind], check=True)
        assert len(read_ssh_keys(tmp_path / f"{kind}.pub")) == 1
        with pytest.raises(InvalidArgument) as refused:
            read_ssh_keys(tmp_path / kind)
        assert str(refused.value.hint).endswith(f"{kind}.pub")


@pytest.mark.parametrize(
    "content",
    ["", "# nothing\n", "hello\n", "ssh-ed25519\n", "ssh-ed25519 !!!\n", "ssh-rsa " + KEY.split()[1], KEY[:30]],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(InvalidArgument, match="keys"):
        read_ssh_keys(tmp_path / "keys")


def test_a_seed_holds_what_it_was_given(tmp_path: Path) -> None:
    seed = tmp_path / "seed.iso"
    write_seed(seed, hostname="My VM", user_data=b"#!/bin/sh\n", ssh_keys=(KEY,), network_config=NETWORK)
    files = read_seed(seed)
    about = json.loads(files["meta-data"])
    assert (files["user-data"], files["network-config"]) == (b"#!/bin/sh\n", NETWORK)
    assert (about["local-hostname"], about["public-keys"]) == ("my-vm", [KEY])
    assert b"cidata" in subprocess.run(["blkid", "-p", "-o", "export", seed], check=True, capture_output=True).stdout


def test_a_clones_seed_has_another_identity_and_the_same_data(tmp_path: Path) -> None:
    seed, copy = tmp_path / "seed.iso", tmp_path / "copy.iso"
    write_seed(seed, hostname="one", user_data=b"#!/bin/sh\n", ssh_keys=(KEY,))
    shutil.copyfile(seed, copy)
    reseed(copy, hostname="two")
    before, after = read_seed(seed), read_seed(copy)
    assert before["user-data"] == after["user-data"]
    first, second = json.loads(before["meta-data"]), json.loads(after["meta-data"])
    assert first["instance-id"] != second["instance-id"]
    assert (second["local-hostname"], second["public-keys"]) == ("two", [KEY])


@pytest.mark.parametrize("content", [b"", b"x" * 100_000], ids=["empty", "noise"])
def test_what_is_no_seed_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seed.iso"
    path.write_bytes(content)
    with pytest.raises(SeedDamaged, match=r"seed\.iso"):
        reseed(path, hostname="two")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "hostname"),
    [("debian", "debian"), ("My VM_2", "my-vm-2"), ("--", "guest"), ("ü", "guest"), ("a" * 80, "a" * 63)],
)
def test_any_vm_name_gives_a_valid_hostname(name: str, hostname: str) -> None:
    assert valid_hostname(name) == hostname


def test_the_conventional_user_data_is_user_data(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_bytes(conventional_user_data())
    assert read_user_data(tmp_path / "user-data").startswith(b"#cloud-config\n{")


@pytest.mark.timeout(600)
async def test_a_built_guest_takes_its_seed_and_mounts_what_the_host_shares(tmp_path: Path) -> None:
    disk = overlay_on(debian_image(architecture="amd64"), tmp_path / "disk.qcow2", "4G")
    seed = tmp_path / "seed.iso"
    script = b"#!/bin/sh\necho seeded > /run/seeded\n"
    write_seed(seed, hostname="Sown", user_data=script, ssh_keys=(KEY,))
    attached = ("-drive", f"if=virtio,format=raw,readonly=on,file={seed}", "-nic", "user,model=virtio,restrict=on")
    (tmp_path / "hello").write_text("from the host")
    async with serving(grouped([f"host:{tmp_path}:ro"]), tmp_path) as shared:
        with debian_machine(tmp_path, disk, *attached, folders=shared.devices) as machine:
            await took_its_seed(machine)
            assert await in_guest(machine.agent, "cat /mnt/shared/host/hello") == "from the host"
            status = "systemctl show -P ExecMainStatus shared-folders.service"
            assert await in_guest(machine.agent, status) == "0\n"


async def took_its_seed(machine: DebianMachine) -> None:
    await text_in(machine.serial_log, "sown login:", within=180)
    assert (await in_guest(machine.agent, "cloud-init status --wait >&2; cat /run/seeded")) == "seeded\n"
    assert KEY in await in_guest(machine.agent, "cat /home/admin/.ssh/authorized_keys")
    assert (await in_guest(machine.agent, "passwd --status admin")).split()[1] == "P"
    # cloud-init brings its own network file; the lease still goes by the MAC address.
    used = await in_guest(machine.agent, "networkctl --no-pager status $(ls /sys/class/net | grep -v lo)")
    assert "10-cloud-init" in used
    assert "DHCP4 Client ID: 52:54:00:12:34:56" in used
    assert "10.0.2.15" in used
    assert (await in_guest(machine.agent, "systemctl --failed --no-legend")) == ""
