"""Our own agent as the files of a guest: the program, and what starts it under systemd or OpenRC."""

from __future__ import annotations

from pathlib import Path

from tartlet.guest.own_agent.tart_agent import FILE, GROW_ROOT, PACKAGED_FILE, PORT

GROWER = f"/usr/local/{GROW_ROOT}"
"""Where the program that grows the root is copied to."""

_UDEV_RULE = f"""\
# A machine with the port has the agent running.
SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{PORT}", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="tart-agent.service"
"""

_UNIT = f"""\
[Unit]
Description=Guest agent of tart
Documentation=man:tart-agent(8)
BindsTo=dev-virtio\\x2dports-{PORT}.device
After=dev-virtio\\x2dports-{PORT}.device
IgnoreOnIsolate=yes
StartLimitIntervalSec=0

[Service]
ExecStart=%s
# It gives way when it has nothing to do, and is started again.
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
# Commands that were detached outlive the agent.
KillMode=process
OOMPolicy=continue
"""

_OPENRC_SCRIPT = f"""\
#!/sbin/openrc-run
description="Guest agent of tart"
supervisor=supervise-daemon
command={FILE}
respawn_delay=2
respawn_max=0
# A host may have something to do before the agent stops.
retry="TERM/85/KILL/5"

depend() {{
    after localmount bootmisc
}}

start_pre() {{
    modprobe -q virtio_console || true
}}
"""


def copied() -> dict[str, bytes]:
    """Paths in the guest and contents where the files are copied in, for systemd and for OpenRC."""
    return {
        FILE: _source("tart_agent"),
        GROWER: _source("grow_root"),
        "/etc/systemd/system/tart-agent.service": (_UNIT % FILE).encode(),
        "/etc/udev/rules.d/60-tart-agent.rules": _UDEV_RULE.encode(),
        "/etc/init.d/tart-agent": _OPENRC_SCRIPT.encode(),
    }


def packaged() -> dict[str, bytes]:
    """The same where they come as a package, for systemd."""
    return {
        PACKAGED_FILE: _source("tart_agent"),
        f"/usr/{GROW_ROOT}": _source("grow_root"),
        "/usr/lib/systemd/system/tart-agent.service": (_UNIT % PACKAGED_FILE).encode(),
        "/usr/lib/udev/rules.d/60-tart-agent.rules": _UDEV_RULE.encode(),
    }


def executable(content: bytes) -> bool:
    """Whether a file with this content is a program."""
    return content.startswith(b"#!")


def _source(module: str) -> bytes:
    return Path(__file__).with_name(f"{module}.py").read_bytes()
