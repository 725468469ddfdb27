"""What `tart network setup` writes: systemd's units, the line for sudo, and the settings of the whole host.

Formats: systemd.socket(5), systemd.exec(5), sudoers(5), TOML.
"""

from __future__ import annotations

from pathlib import Path

from tartlet.network.shared.wire import INSTALLED

ACCOUNT = "tart"
"""The user as which the helper runs, and the group whose members may use it."""

SOCKET_UNIT, SERVICE_UNIT = "tart-net.socket", "tart-net.service"
UNITS = Path("/etc/systemd/system")
SUDOERS = Path("/etc/sudoers.d/tartlet")

RIGHTS = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE")
"""All that the helper may do beyond an ordinary user: interfaces and rules, DHCP, and ports below 1024."""

_BY = "# Written by `tart network setup`, taken away by `tart network remove`."
_OWN_CHANGES = "# For changes of your own: systemctl edit"


def socket_unit() -> str:
    """The socket that stands for the helper, which systemd starts when somebody connects."""
    return f"""\
{_BY}
{_OWN_CHANGES} {SOCKET_UNIT}
[Unit]
Description=Network of virtual machines, for members of the group {ACCOUNT}

[Socket]
ListenSequentialPacket={INSTALLED}
SocketGroup={ACCOUNT}
SocketMode=0660
DirectoryMode=0755
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


def service_unit(program: Path) -> str:
    """The helper itself: a user of its own with three rights, and nothing to write to but its own folder."""
    rights = " ".join(RIGHTS)
    return f"""\
{_BY}
{_OWN_CHANGES} {SERVICE_UNIT}
[Unit]
Description=Network of virtual machines
Requires={SOCKET_UNIT}
After={SOCKET_UNIT}

[Service]
Type=simple
# What it started ends with it, or with the last VM. A new one must not wait for that when this one was killed.
KillMode=process
ExecStart="{_escaped(program)}"
User={ACCOUNT}
Group={ACCOUNT}
AmbientCapabilities={rights}
CapabilityBoundingSet={rights}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
PrivateTmp=yes
# Preserved, because the socket is in it, which stays when the helper ends.
RuntimeDirectory={INSTALLED.parent.name}
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
DeviceAllow=/dev/vhost-net rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
LimitNOFILE=65536
"""


def sudoers(program: Path) -> str:
    """What lets members of the group start the helper as root without a password, in this one way and nothing else."""
    word = _sudo_word(program)
    return f"""\
{_BY}
Defaults!{word} env_reset
%{ACCOUNT} ALL=(root) NOPASSWD: {word} --listen-fd 0
"""


def system_settings() -> str:
    """The host's settings as they are without the file, all as comments."""
    return """\
# The network that VMs share through this host's helper, for all users. Each line shows what applies without it.
# A change applies from the next start of the network on: when no VM runs in it.

# vms_per_user = 32              # how many VMs of one user can be in it at once
# expose_masquerade = false      # true: guests see their gateway as the client of exposed ports, and need allow nobody

# [dns]
# mode = "auto"                  # where this host asks; "off"; or name servers: "9.9.9.9,149.112.112.112"

# [nat]
# address = "192.168.64.1"      # the guests' gateway; another network is taken when this host reaches one of that name
# mask = "255.255.255.0"

# [host]                         # for --net-host
# address = "192.168.128.1"
# mask = "255.255.255.0"

# [dhcp]
# lease_time = 86400             # seconds

# [softnet]
# dhcp_lease_time = 600          # the same with --net-softnet

# [bridged]                      # applies at once
# allow = []                     # this host's bridges that users may put VMs on by --net-bridged, for example ["br0"]
"""


def _escaped(program: Path) -> str:
    """Between quotes in a unit; `%` and `$` mean something there (systemd.service(5), COMMAND LINES)."""
    return str(program).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")


def _sudo_word(program: Path) -> str:
    """A path as sudoers(5) has it: some characters mean something, wildcards among them."""
    return "".join(f"\\{letter}" if letter in "\\,:=!()*?[] \t" else letter for letter in str(program))
