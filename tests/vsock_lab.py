"""Guests whose only agent stands behind vsock, as in images made for the original."""

from __future__ import annotations

import shutil
from pathlib import Path

import google.protobuf
import grpc
import typing_extensions

from tartlet.guest.rpc import agent_pb2
from vm_lab import Lab, until

_FOLDER = "/opt/agent"
_UNIT = f"""\
[Service]
User=admin
ExecStart=/usr/bin/python3 {_FOLDER}/vsock_guest_agent.py
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
_INSTALL = f"printf '{_UNIT}' > /etc/systemd/system/vsock-agent.service && systemctl enable -q --now vsock-agent"
_REMOVE_OTHERS = "systemctl mask -q --now qemu-guest-agent; dpkg --purge tart-agent; sync"


def give_vsock_agent(lab: Lab, name: str, work: Path) -> None:
    """Take the agents of the running guest `name` away, and give it an independent one; `work` is an empty folder."""
    lab.done("cp", "--user", "root", str(_program(work / "agent")), f"{name}:/opt", timeout=120)
    lab.done("exec", "--user", "root", name, "sh", "-c", _INSTALL)
    lab.done("exec", "--user", "root", "--detach", name, "sh", "-c", _REMOVE_OTHERS)
    until(lambda: "vsock port" in lab.tart("doctor", name).out, "the agent behind vsock", within=120)


def _program(folder: Path) -> Path:
    """The agent with what it imports, which is for the same Python as Debian's."""
    folder.mkdir()
    for module in (grpc.__file__, str(Path(google.protobuf.__file__).parent)):
        package = Path(module).parent
        ignored = shutil.ignore_patterns("__pycache__", "*.pyi", "_cython/_cygrpc", "roots.pem")
        shutil.copytree(package, folder / package.name, ignore=ignored)
    for file in (typing_extensions.__file__, agent_pb2.__file__, str(Path(__file__).with_name("vsock_guest_agent.py"))):
        shutil.copy(file, folder)
    return folder
