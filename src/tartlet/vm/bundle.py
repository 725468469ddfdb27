"""One archive to attach to a bug report: findings, logs and configurations, without what is nobody's business."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tartlet.errors import FileTrouble
from tartlet.vm.doctor import Finding
from tartlet.vm.stored.folder import VmFolder
from tartlet.vm.stored.store import VmStore

_TAIL = 256 * 1024
"""Bytes taken of each log."""

_FILES = ("config.json", "last-run.json", "network.json", "run.log", "qemu.log", "serial.log", "refusals.log")

_SECRETS = (
    (re.compile(r"(vnc://[^:@\s]*:)[^@\s]+@"), r"\1[removed]@"),
    (re.compile(r"(?i)((?:password|passwd|secret|token|authorization)\"?\s*[:=]\s*)(\"[^\"]*\"|\S+)"), r"\1[removed]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "[removed]"),
    (re.compile(r'("(?:ecid|hardwareModel)"\s*:\s*)"[^"]*"'), r'\1"[removed]"'),
    (re.compile(r"\b(?:[0-9a-f]{2}:){3}((?:[0-9a-f]{2}:){2}[0-9a-f]{2})\b", re.IGNORECASE), r"xx:xx:xx:\1"),
)
"""What is taken out wherever it stands, and what stands there instead."""


def write_bundle(target: Path, store: VmStore, findings: Sequence[Finding], vms: Iterable[VmFolder]) -> None:
    """Write the archive (tar, gzip, mode 0600) to the new or old file `target`. Raises FileTrouble.

    First-boot data, disks, firmware variables and saved machines are never in it. Passwords, keys, machine identifiers,
    the first half of MAC addresses and the path of the user's home are removed from what is.
    """
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            os.fchmod(descriptor, 0o600)
            told = json.dumps([asdict(finding) for finding in findings], indent=2)
            _add(archive, "doctor.json", redacted(told, store.home.root))
            for vm in vms:
                for name in _FILES:
                    text = _tail(vm.path / name)
                    if text is not None:
                        _add(archive, f"vms/{vm.name}/{name}", redacted(text, store.home.root))
    except OSError as exc:
        raise FileTrouble("cannot write the bundle", target, exc) from exc


def redacted(text: str, home: Path) -> str:
    """`text` without secrets and without the paths that name the user."""
    text = text.replace(str(home), "TART_HOME").replace(os.path.expanduser("~") + "/", "~/")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _tail(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return None


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))
