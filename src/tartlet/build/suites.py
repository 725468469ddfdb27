"""The distributions and architectures a guest can be built of."""

from __future__ import annotations

from dataclasses import dataclass

from tartlet.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A family of Linux systems that is built from Debian packages."""

    name: str
    """As in `ID=` of os-release(5)."""
    keyring: str
    """File with the keys that sign its packages."""
    keyring_package: str
    components: tuple[str, ...]
    kernels: tuple[tuple[str, str], ...]
    """Architecture and the package of its kernel for virtual machines."""
    mirror: str
    security_mirror: str
    ports_mirror: str | None = None
    """Mirror of every architecture other than amd64, where that is another one."""

    def kernel(self, architecture: str) -> str:
        return dict(self.kernels)[architecture]


DEBIAN = Distribution(
    name="debian",
    keyring="/usr/share/keyrings/debian-archive-keyring.gpg",
    keyring_package="debian-archive-keyring",
    components=("main",),
    kernels=(("amd64", "linux-image-cloud-amd64"), ("arm64", "linux-image-cloud-arm64")),
    mirror="http://deb.debian.org/debian",
    security_mirror="http://deb.debian.org/debian-security",
)

UBUNTU = Distribution(
    name="ubuntu",
    keyring="/usr/share/keyrings/ubuntu-archive-keyring.gpg",
    keyring_package="ubuntu-keyring",
    components=("main", "universe"),
    kernels=(("amd64", "linux-image-virtual"), ("arm64", "linux-image-virtual")),
    mirror="http://archive.ubuntu.com/ubuntu",
    security_mirror="http://security.ubuntu.com/ubuntu",
    ports_mirror="http://ports.ubuntu.com/ubuntu-ports",
)

_COMMON = (
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "fdisk",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "less",
    "libpam-systemd",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "qemu-guest-agent",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One release of a distribution."""

    distribution: Distribution
    codename: str
    version: str
    extra_packages: tuple[str, ...]
    """Packages that hold in this release what others have inside `systemd`."""

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """As the user writes it: `debian:bookworm`."""
        return f"{self.distribution.name}:{self.codename}"

    def packages(self, architecture: str) -> tuple[str, ...]:
        return tuple(sorted({*_COMMON, *self.extra_packages, self.distribution.kernel(architecture)}))


SUITES = (
    Suite(
        distribution=DEBIAN,
        codename="bookworm",
        version="12",
        extra_packages=("systemd-boot-efi", "systemd-resolved"),
    ),
    Suite(
        distribution=DEBIAN,
        codename="trixie",
        version="13",
        extra_packages=("systemd-boot-efi", "systemd-repart", "systemd-resolved"),
    ),
    Suite(distribution=UBUNTU, codename="jammy", version="22.04", extra_packages=()),
    Suite(
        distribution=UBUNTU,
        codename="noble",
        version="24.04",
        extra_packages=("systemd-boot-efi", "systemd-resolved"),
    ),
)

ARCHITECTURES = {"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
"""What users and kernels say, and what Debian says."""


def suite_named(text: str) -> Suite:
    """The release for `debian:bookworm` or `debian:12`. Raises InvalidArgument."""
    for suite in SUITES:
        if text in (suite.name, f"{suite.distribution.name}:{suite.version}"):
            return suite
    known = ", ".join(suite.name for suite in SUITES)
    raise InvalidArgument(f"no recipe for the distribution {text!r}", f"known are {known}")


def architecture_named(text: str) -> str:
    """Debian's name of an architecture. Raises InvalidArgument."""
    try:
        return ARCHITECTURES[text]
    except KeyError:
        raise InvalidArgument(
            f"no recipe for the architecture {text!r}", "known are amd64 (x86_64) and arm64 (aarch64)"
        ) from None
