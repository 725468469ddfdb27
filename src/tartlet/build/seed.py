"""First-boot data for cloud-init on a small ISO image (its "NoCloud" data source, volume label `cidata`)."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

from tartlet.errors import UserError
from tartlet.host.files import write_whole

_NAMES = {"user-data": "USERDATA", "meta-data": "METADATA", "network-config": "NETCONF"}


class SeedDamaged(UserError):
    """A seed disk that this program did not write, or that is not whole."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"cannot read the first-boot data in {path}: {why}", "make it anew, or delete it")


def write_seed(
    path: Path,
    *,
    hostname: str,
    user_data: bytes = b"#cloud-config\n{}\n",
    ssh_keys: tuple[str, ...] = (),
    network_config: bytes | None = None,
    instance_id: str | None = None,
) -> None:
    """Make or replace the seed disk at `path` in one step. Raises OSError.

    The keys go to the guest's default user. A guest does its first-boot work again whenever `instance_id` is new to
    it; without one a new one is made up. Without `network_config` cloud-init chooses.
    """
    about: dict[str, Any] = {"instance-id": instance_id or _new_id(), "local-hostname": valid_hostname(hostname)}
    if ssh_keys:
        about["public-keys"] = list(ssh_keys)
    files = {"user-data": user_data, "meta-data": _told(about)}
    if network_config is not None:
        files["network-config"] = network_config
    write_whole(path, _iso(files))


def reseed(path: Path, *, hostname: str, instance_id: str | None = None) -> None:
    """Give the seed disk at `path` a new identity and leave the rest of it. Raises SeedDamaged, OSError."""
    files = read_seed(path)
    try:
        about: dict[str, Any] = json.loads(files["meta-data"])
    except (KeyError, ValueError) as exc:
        raise SeedDamaged(path, "its meta-data was not written by this program") from exc
    about |= {"instance-id": instance_id or _new_id(), "local-hostname": valid_hostname(hostname)}
    write_whole(path, _iso({**files, "meta-data": _told(about)}))


def read_seed(path: Path) -> dict[str, bytes]:
    """The files on a seed disk by their names. Raises SeedDamaged, OSError."""
    from pycdlib import PyCdlib
    from pycdlib.pycdlibexception import PyCdlibException

    iso: Any = PyCdlib()  # its walk() tells no types
    with path.open("rb") as file:
        try:
            iso.open_fp(file)
            files: dict[str, bytes] = {}
            present = {name for _, _, names in iso.walk(rr_path="/") for name in names}
            for name in sorted(present & _NAMES.keys()):
                content = io.BytesIO()
                iso.get_file_from_iso_fp(content, rr_path=f"/{name}")
                files[name] = content.getvalue()
        except PyCdlibException as exc:
            raise SeedDamaged(path, str(exc)) from exc
        iso.close()
    return files


def valid_hostname(name: str) -> str:
    """The VM's name as far as a host may be called that (RFC 1123): `My VM_2` becomes `my-vm-2`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "guest"


def _iso(files: dict[str, bytes]) -> bytes:
    from pycdlib import PyCdlib

    iso = PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, content in files.items():
        short = f"/{_NAMES[name]}.;1"
        iso.add_fp(io.BytesIO(content), len(content), short, rr_name=name, joliet_path=f"/{name}")
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()


def _told(about: dict[str, Any]) -> bytes:
    """JSON, which is YAML too."""
    return json.dumps(about, indent=2).encode() + b"\n"


def _new_id() -> str:
    return str(uuid4())
