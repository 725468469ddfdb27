"""How the tests' tiny Linux guest is made: Debian's cloud kernel and QEMU guest agent around a busybox.

Packages are downloaded by apt and unpacked, never installed; nothing here needs root, a mount or a loop device.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

DISK_SIZE = 96 << 20
_SECTOR = 512
_ESP_START, _ESP_SIZE = 1 << 20, 62 << 20

BOOT_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "button",
    "evdev",
)
"""Loaded at boot; the others below wait for a `modprobe`."""

SPARE_MODULES = ("virtio_input", "virtiofs", "vmw_vsock_virtio_transport", "overlay", "efivarfs")

_KERNEL_OPTIONS = "console=hvc0 console=ttyS0 quiet loglevel=4 panic=-1 tsc=unstable no_timer_check random.trust_cpu=on"

INIT = """\
#!/bin/busybox sh
# Process 1 of the tests' tiny guest.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /home/admin /dev/pts /dev/shm /run /var/run /tmp
chown 1000:1000 /home/admin
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
modprobe -a BOOT_MODULES 2>/dev/null
hostname mini
mkdir -p /mnt/shared
grep -q 0x105a /sys/bus/pci/devices/*/device && modprobe virtiofs &&
  mount -t virtiofs com.apple.virtio-fs.automount /mnt/shared 2>/dev/null
ip link set lo up
acpid -l /dev/null -c /etc/acpi

agent_port() {
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && { echo "/dev/${port##*/}"; return 0; }
  done
  return 1
}
serve_agent() { while :; do qemu-ga -m virtio-serial -p "$1" -t /run > /dev/null 2>&1; sleep 1; done; }
port=$(agent_port) && serve_agent "$port" &

if [ -e /sys/class/net/eth0 ]; then
  ip link set eth0 up
  (udhcpc -i eth0 -s /etc/udhcpc.sh -t 8 -T 1 -A 2 -S > /dev/null 2>&1
   dropbear -R -r /etc/dropbear.key -p 22 2>/dev/null) &
fi
shell_on() { while :; do setsid sh -c "exec sh -l < /dev/$1 > /dev/$1 2>&1"; sleep 1; done; }
[ -e /sys/class/tty/hvc0/device ] && shell_on hvc0 &
echo "READY $(uname -r) $(cut -d ' ' -f 1 /proc/uptime)"
[ -e /dev/hvc0 ] && echo READY > /dev/hvc0
while :; do setsid cttyhack sh -l; sleep 1; done
"""

_UDHCPC = """\
#!/bin/sh
# Called by udhcpc with what the server told.
case $1 in
  bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -n "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
    : > /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
    echo "ADDRESS $ip" > /dev/console ;;
esac
"""

_FILES = {
    "init": (INIT.replace("BOOT_MODULES", " ".join(BOOT_MODULES)), 0o755),
    "etc/udhcpc.sh": (_UDHCPC, 0o755),
    "etc/acpi/PWRF/00000080": ("#!/bin/sh\necho POWER BUTTON > /dev/console\npoweroff -f\n", 0o755),
    "etc/group": ("root:x:0:\nadmin:x:1000:\n", 0o644),
    "etc/passwd": ("root:x:0:0:root:/root:/bin/sh\nadmin:x:1000:1000:admin:/home/admin:/bin/sh\n", 0o644),
    "etc/shells": ("/bin/sh\n", 0o644),
    "etc/profile": ("PS1='mini:\\w\\$ '\n", 0o644),
}


def build(into: Path, work: Path) -> None:
    """Make the guest's disk at `into`, with `work` (an empty folder) for what is in between."""
    packages = work / "packages"
    kernel = _kernel_package()
    _unpacked([kernel, "busybox-static", "qemu-guest-agent", "dropbear-bin", "systemd-boot-efi"], packages)
    root = work / "root"
    _root(root, packages)
    _modules(root, packages)
    initramfs = work / "initramfs"
    initramfs.write_bytes(_archive(root))
    _disk(into, _esp(work, packages, initramfs))


def _kernel_package() -> str:
    """The versioned package behind Debian's `linux-image-cloud-amd64`."""
    told = _run("apt-cache", "depends", "--important", "linux-image-cloud-amd64")
    return next(line.split()[-1] for line in told.splitlines() if "Depends: linux-image-" in line)


def _unpacked(names: list[str], into: Path) -> None:
    """Download packages and the libraries they need, and unpack them all into one tree."""
    told = _run("apt-cache", "depends", "--recurse", "--important", *names[1:])
    libraries = {line for line in told.splitlines() if line.startswith(("lib", "zlib")) and "perl" not in line}
    downloads = into.with_name("downloads")
    downloads.mkdir(parents=True)
    subprocess.run(
        ["apt-get", "-q", "download", *names, *sorted(libraries)], cwd=downloads, check=True, capture_output=True
    )
    for package in sorted(downloads.glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(into))


def _root(root: Path, packages: Path) -> None:
    for folder in (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "etc",
        "proc",
        "sys",
        "dev",
        "root",
        "tmp",
        "run",
        "var/run",
        "home",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    busybox = next(path for path in (packages / "bin/busybox", packages / "usr/bin/busybox") if path.exists())
    shutil.copy(busybox, root / "bin/busybox")
    programs = [packages / "usr/sbin/qemu-ga", packages / "usr/sbin/dropbear"]
    for program in programs:
        shutil.copy(program, root / "usr/sbin")
    _libraries(root, packages, programs)
    for name, (text, mode) in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    password = _run(str(busybox), "mkpasswd", "-m", "sha256", "admin").strip()
    (root / "etc/shadow").write_text(f"root:*:19000::::::\nadmin:{password}:19000::::::\n")
    (root / "etc/shadow").chmod(0o600)
    _run(
        *_loader(packages), str(packages / "usr/bin/dropbearkey"), "-t", "ed25519", "-f", str(root / "etc/dropbear.key")
    )


def _loader(packages: Path) -> list[str]:
    """The words that run a program of the unpacked tree with the libraries of that tree."""
    folders = [packages / prefix / "x86_64-linux-gnu" for prefix in ("lib", "usr/lib")]
    loader = next(folder / "ld-linux-x86-64.so.2" for folder in folders if (folder / "ld-linux-x86-64.so.2").exists())
    return [str(loader), "--library-path", ":".join(map(str, folders))]


def _libraries(root: Path, packages: Path, programs: Iterable[Path]) -> None:
    folder = root / "lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (root / "lib64").mkdir()
    loader = _loader(packages)
    shutil.copy(loader[0], root / "lib64/ld-linux-x86-64.so.2")
    for program in programs:
        listing = _run(*loader, "--list", str(program))
        if "not found" in listing:
            raise RuntimeError(f"{program} lacks a library: {listing}")
        for word in listing.split():
            if word.startswith(str(packages)) and word != loader[0]:
                shutil.copy(word, folder)
    for extra in ("libnss_files.so.2", "libnss_compat.so.2"):
        for found in packages.glob(f"*lib/x86_64-linux-gnu/{extra}"):
            shutil.copy(found, folder)


def _modules(root: Path, packages: Path) -> None:
    """Copy the modules named above with what they need; busybox writes their index."""
    tree = next(path for prefix in ("lib", "usr/lib") for path in (packages / prefix).glob("modules/*"))
    target = root / "lib/modules" / tree.name
    busybox = str(root / "bin/busybox")
    base = tree.parent.parent.parent
    _run(busybox, "depmod", "-b", str(base), tree.name)
    needs = dict(line.split(":", 1) for line in (tree / "modules.dep").read_text().splitlines())
    by_name = {_module_name(path): path for path in needs}
    for name in (*BOOT_MODULES, *SPARE_MODULES):
        for path in (by_name[name], *needs[by_name[name]].split()):
            copy = target / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / path, copy)
    for listing in tree.glob("modules.builtin*"):
        shutil.copy(listing, target)
    _run(busybox, "depmod", "-b", str(root), tree.name)


def _module_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko", maxsplit=1)[0].replace("-", "_")


def _archive(root: Path) -> bytes:
    """The tree as a compressed cpio archive owned by root."""
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"],
        input=names.encode(),
        cwd=root,
        check=True,
        capture_output=True,
    ).stdout
    return subprocess.run(["zstd", "-q", "-c", "-9"], input=archive, check=True, capture_output=True).stdout


def _esp(work: Path, packages: Path, initramfs: Path) -> Path:
    """A FAT file system with systemd-boot, the kernel and the initramfs."""
    esp = work / "esp"
    with esp.open("wb") as file:
        file.truncate(_ESP_SIZE)
    kernel = next(path for path in (packages / "boot").glob("vmlinuz-*"))
    loader, entry = work / "loader.conf", work / "mini.conf"
    loader.write_text("timeout 0\ndefault mini.conf\neditor no\n")
    entry.write_text(f"title mini\nlinux /linux\ninitrd /initramfs\noptions {_KERNEL_OPTIONS}\n")
    _run("mkfs.fat", "-F", "32", "-n", "ESP", str(esp))
    _run("mmd", "-i", str(esp), "::EFI", "::EFI/BOOT", "::loader", "::loader/entries")
    for source, name in (
        (packages / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"),
        (loader, "loader/loader.conf"),
        (entry, "loader/entries/mini.conf"),
        (kernel, "linux"),
        (initramfs, "initramfs"),
    ):
        _run("mcopy", "-i", str(esp), str(source), f"::{name}")
    return esp


def _disk(path: Path, esp: Path) -> None:
    """A GPT disk: the ESP first, an empty `data` partition behind it for tests that write."""
    with path.open("wb") as disk:
        disk.truncate(DISK_SIZE)
        disk.seek(_ESP_START)
        disk.write(esp.read_bytes())
    table = (
        "label: gpt\n"
        f"start={_ESP_START // _SECTOR}, size={_ESP_SIZE // _SECTOR}, type=U, name=esp\n"
        f"start={(_ESP_START + _ESP_SIZE) // _SECTOR}, type=L, name=data\n"
    )
    subprocess.run(["sfdisk", "-q", "--no-reread", str(path)], input=table.encode(), check=True, capture_output=True)


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
