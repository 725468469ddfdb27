"""Our own agent as the files of a guest: the program, and what starts it under systemd or OpenRC."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tartlet.guest.tart_agent import FILE, PORT

_UDEV_RULE = f"""\
# A machine with the port has the agent running.
SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{PORT}", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="tart-agent.service"
"""

_UNIT = f"""\
[Unit]
Description=Guest agent of tart
BindsTo=dev-virtio\\x2dports-{PORT}.device
After=dev-virtio\\x2dports-{PORT}.device
IgnoreOnIsolate=yes
StartLimitIntervalSec=0

[Service]
ExecStart={FILE}
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

depend() {{
    need localmount
    after bootmisc
}}

start_pre() {{
    modprobe -q virtio_console || true
}}
"""

SYSTEMD = {
    "/etc/udev/rules.d/60-tart-agent.rules": _UDEV_RULE,
    "/etc/systemd/system/tart-agent.service": _UNIT,
}
"""Paths in the guest and contents."""

OPENRC = {"/etc/init.d/tart-agent": _OPENRC_SCRIPT}


def archive() -> bytes:
    """All of it as a tar archive, for guests of either kind."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for path, content in {**_encoded(SYSTEMD), **_encoded(OPENRC), FILE: program()}.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode, entry.size = 0o644, len(content)
            made.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def _encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {path: text.encode() for path, text in files.items()}


def program() -> bytes:
    """The agent itself, for FILE in the guest."""
    return Path(__file__).with_name("tart_agent.py").read_bytes()
