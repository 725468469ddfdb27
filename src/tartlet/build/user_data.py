"""What the user hands to a guest's first boot: cloud-init user data and SSH keys, looked at before they are used.

Sources: cloud-init's documentation, "User-data formats"; RFC 4253 section 6.6 for the shape of a public key.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path

from tartlet.errors import FileTrouble, InvalidArgument

_FORMS = (
    b"#cloud-config",
    b"#cloud-config-archive",
    b"#cloud-boothook",
    b"#include",
    b"#part-handler",
    b"#!",
    b"## template: jinja",
    b"Content-Type: multipart",
    b"MIME-Version:",
    b"\x1f\x8b",
)
"""How user data begins that cloud-init does something with; it silently ignores anything else."""

_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)

_LARGEST = 1024 * 1024
"""Bytes; nobody means a larger file."""


def read_user_data(path: Path) -> bytes:
    """The content of a user data file. Raises FileTrouble, InvalidArgument when cloud-init would ignore it."""
    content = _content(path)
    if not content.strip():
        raise InvalidArgument(f"the user data file {path} is empty")
    if not content.startswith(_FORMS):
        start = content.splitlines()[0][:40].decode(errors="replace")
        raise InvalidArgument(
            f"{path} is no user data that cloud-init knows: it begins with {start!r}",
            "its first line must be #cloud-config, or #! for a script",
        )
    return content


def read_ssh_keys(path: Path) -> tuple[str, ...]:
    """The public keys in a file, one a line. Raises FileTrouble, InvalidArgument."""
    content = _content(path)
    if b"PRIVATE KEY-----" in content:
        raise InvalidArgument(f"{path} holds a private key", f"give the public one, most likely {path}.pub")
    lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    for key in keys:
        if not _is_public_key(key):
            raise InvalidArgument(f"{path} holds a line that is no SSH public key: {key[:40]!r}")
    if not keys:
        raise InvalidArgument(f"there is no SSH public key in {path}")
    return keys


def conventional_user_data() -> bytes:
    """User data that brings a foreign cloud image to this program's conventions.

    The account admin with the password admin and sudo, login with a password over SSH, and the QEMU guest agent,
    which is installed from the network when the image lacks it.
    """
    account = {
        "name": "admin",
        "gecos": "Administrator",
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": False,
        "plain_text_passwd": "admin",
    }
    told = {
        "users": ["default", account],
        "ssh_pwauth": True,
        "packages": ["qemu-guest-agent"],
        "runcmd": [["systemctl", "enable", "--now", "qemu-guest-agent.service"]],
    }
    return b"#cloud-config\n" + json.dumps(told, indent=2).encode() + b"\n"


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    if len(content) > _LARGEST:
        raise InvalidArgument(f"{path} is larger than 1 MiB")
    return content


def _is_public_key(line: str) -> bool:
    """A known type followed by a blob that names the same type; options may stand before, a comment after."""
    words = line.split()
    at = next((at for at, word in enumerate(words) if word in _KEY_TYPES), None)
    if at is None or at + 1 >= len(words):
        return False
    try:
        blob = base64.b64decode(words[at + 1], validate=True)
    except binascii.Error:
        return False
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length] == words[at].encode() and len(blob) > 4 + length
