"""The file a VM is saved in: read leniently, written exactly, changed in place.

The running VM's lock sits on this file's inode, so it is never replaced by another file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from tartlet.errors import FileTrouble
from tartlet.host.files import write_in_place, write_new
from tartlet.host.trouble import trouble_writing
from tartlet.vm.stored.model import BadConfig, Display, VmConfig, mac_numbers

_OURS = (
    "version", "os", "arch", "cpuCountMin", "cpuCount", "memorySizeMin", "memorySize", "macAddress", "display",
    "displayRefit", "diskFormat",
)  # fmt: skip
_NEEDED_BY_DARWIN = ("ecid", "hardwareModel")


def read(path: Path) -> VmConfig:
    """The configuration saved in `path`. Raises BadConfig, FileTrouble."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise FileTrouble("cannot read", path, exc) from exc
    return parsed(content, path)


def parsed(content: bytes, source: object = "config.json") -> VmConfig:
    """The configuration that `content` says; `source` is named in errors. Raises BadConfig."""
    try:
        document = json.loads(content)
    except ValueError as exc:
        raise BadConfig(f"{source} is not valid JSON: {exc}", _MEND) from exc
    if not isinstance(document, dict):
        raise BadConfig(f"{source} does not hold a JSON object", _MEND)
    return _config(_Reader(cast("dict[str, Any]", document), source))


_MEND = "mend the file, or delete this VM and clone it again"


class _Reader:
    """A JSON object whose values are asked for by key and type."""

    def __init__(self, document: dict[str, Any], source: object) -> None:
        self.document, self.source = document, source

    def integer(self, key: str) -> int:
        value = self.document.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadConfig(f'{self.source}: "{key}" must be a number and is {json.dumps(value)}', _MEND)
        return value

    def one_of(self, key: str, words: tuple[str, ...], default: str) -> str:
        value = self.document.get(key, default)
        if value not in words:
            raise BadConfig(f'{self.source}: "{key}" must be one of {", ".join(words)}, not {json.dumps(value)}', _MEND)
        return cast("str", value)


def _config(reader: _Reader) -> VmConfig:
    document = reader.document
    if reader.integer("version") != 1:
        raise BadConfig(
            f"{reader.source} has version {document['version']}, which this program does not know", "update tartlet"
        )
    guest = reader.one_of("os", ("darwin", "linux"), "darwin")
    missing = [key for key in _NEEDED_BY_DARWIN if guest == "darwin" and not isinstance(document.get(key), str)]
    if missing:
        raise BadConfig(f"{reader.source} describes a macOS VM and lacks {' and '.join(missing)}", _MEND)
    refit = document.get("displayRefit")
    return VmConfig(
        os=guest,
        arch=reader.one_of("arch", ("arm64", "amd64"), "arm64"),
        cpu_count=reader.integer("cpuCount"),
        cpu_count_min=reader.integer("cpuCountMin"),
        memory_size=reader.integer("memorySize"),
        memory_size_min=reader.integer("memorySizeMin"),
        mac_address=_mac(reader),
        display=_display(reader),
        display_refit=refit if isinstance(refit, bool) else None,
        disk_format=_disk_format(document),
        other={key: value for key, value in document.items() if key not in _OURS},
    )


def _mac(reader: _Reader) -> str:
    value = reader.document.get("macAddress")
    numbers = mac_numbers(value) if isinstance(value, str) else None
    if numbers is None:
        raise BadConfig(f'{reader.source}: "macAddress" is not a MAC address: {json.dumps(value)}', _MEND)
    return ":".join(f"{number:02x}" for number in numbers)


def _display(reader: _Reader) -> Display:
    value = reader.document.get("display")
    if value is None:
        return Display()
    if not isinstance(value, dict):
        raise BadConfig(f'{reader.source}: "display" must be an object', _MEND)
    inner = _Reader(cast("dict[str, Any]", value), f"{reader.source}: display")
    unit = inner.document.get("unit")
    return Display(inner.integer("width"), inner.integer("height"), unit if unit in ("pt", "px") else None)


def _disk_format(document: dict[str, Any]) -> str:
    value = document.get("diskFormat")
    return value if value in ("raw", "qcow2", "asif") else "raw"


def printed(config: VmConfig) -> bytes:
    """`config` as the file holds it: two-blank indent, blanks around the colon, unset keys left out."""
    document: dict[str, Any] = {
        "version": 1,
        "os": config.os,
        "arch": config.arch,
        "cpuCountMin": config.cpu_count_min,
        "cpuCount": config.cpu_count,
        "memorySizeMin": config.memory_size_min,
        "memorySize": config.memory_size,
        "macAddress": config.mac_address,
        "display": {"width": config.display.width, "height": config.display.height},
        "diskFormat": config.disk_format,
    }
    if config.display.unit:
        document["display"]["unit"] = config.display.unit
    if config.display_refit is not None:
        document["displayRefit"] = config.display_refit
    document.update(config.other)
    return json.dumps(document, indent=2, separators=(",", " : "), ensure_ascii=False).encode()


def write(path: Path, config: VmConfig) -> None:
    """Save `config` in the existing file `path`, whose inode (and lock) stays. Raises FileTrouble."""
    try:
        write_in_place(path, printed(config))
    except OSError as exc:
        raise trouble_writing(path, exc) from exc


def create(path: Path, config: VmConfig) -> None:
    """Save `config` in a new file. Raises FileTrouble."""
    try:
        write_new(path, printed(config))
    except OSError as exc:
        raise trouble_writing(path, exc) from exc
