"""A guest built from Debian's packages, once it has booted with a larger disk: what `--from-distro` promises of it."""

from __future__ import annotations

import pytest

from vm_lab import Lab, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_it_has_booted_to_login_with_a_grown_root_and_keys_of_its_own(debian: Lab) -> None:
    until(lambda: "debian login:" in debian.vm("debian").serial_log_path.read_text(), "the login prompt", within=180)

    def said(command: str) -> str:
        return debian.sh(command, "debian", user="root")

    assert int(said("df --output=size --block-size=1G / | tail -1")) >= 11
    assert said("systemctl is-system-running --wait") == "running"
    assert said("ls /etc/ssh/ssh_host_*_key") == "/etc/ssh/ssh_host_ecdsa_key\n/etc/ssh/ssh_host_ed25519_key"
    assert len(said("cat /etc/machine-id")) == 32
    assert said("cloud-init status") == "status: disabled"
    assert said("runuser -u admin -- sudo -n id -u") == "0"
    assert said("su admin -s /bin/sh -c 'echo admin | su admin -c \"id -un\"' 2>/dev/null") == "admin"
    assert said("sshd -T | grep -i ^passwordauthentication") == "passwordauthentication yes"
    assert said("modinfo -n virtiofs vmw_vsock_virtio_transport | wc -l") == "2"
    assert said("python3 -c 'print(6 * 7)'") == "42"
    assert said("systemctl list-timers --no-legend | grep -c apt || true") == "0"
    # A kernel that comes or goes in the guest does so in the boot menu.
    entries = "update-esp && ls /boot/efi/loader/entries | wc -l"
    assert said(f"touch /boot/vmlinuz-0-test /boot/initrd.img-0-test && {entries}") == "2"
    assert said(f"rm /boot/*-0-test && {entries}") == "1"
