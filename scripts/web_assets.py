#!/usr/bin/env python3
"""Brings what the web console is made of into `src/tartlet/web/static`: noVNC and xterm.js, unmodified, with licences.

    scripts/web_assets.py

The packages come from npm's registry, in the versions of `web_assets.json` and only with the checksums that stand
there. Quick when there is nothing to do. `scripts/setup` calls it, and so does the build of a wheel.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src/tartlet/web/static"
REGISTRY = os.environ.get("npm_config_registry", "https://registry.npmjs.org").rstrip("/")  # noqa: SIM112 - npm's name
ABOUT = "README.txt"
"""Tells what is there and where its source is; when it is what it would be, so is the rest."""
_SECONDS = 60
_LONGEST = 16 << 20


def bring(target: Path = TARGET) -> None:
    """Make `target` what the list says. Raises OSError, ValueError."""
    packages: list[Mapping[str, Any]] = json.loads((HERE / "web_assets.json").read_text())
    about = "\n".join(_about(package) for package in packages)
    if (target / ABOUT).is_file() and (target / ABOUT).read_text() == about:
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".static-") as work:
        made = Path(work) / "static"
        for package in packages:
            for name, content in _files(package, _fetched(package)):
                path = made / package["into"] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        (made / ABOUT).write_text(about)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def _about(package: Mapping[str, Any]) -> str:
    return (
        f"{package['into']}: {package['package']} {package['version']}, unmodified\n"
        f"    licence    {package['licence']}\n"
        f"    source     {package['source']}\n"
        f"    integrity  {package['integrity']}\n"
    )


def _fetched(package: Mapping[str, Any]) -> bytes:
    name = package["package"]
    url = f"{REGISTRY}/{name}/-/{name.rpartition('/')[2]}-{package['version']}.tgz"
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - what it sends is checked below
        archive: bytes = answer.read(_LONGEST)
    kind, _, digest = package["integrity"].partition("-")
    if hashlib.new(kind, archive).digest() != base64.b64decode(digest):
        raise ValueError(f"{url} is not what web_assets.json says: the checksum differs")
    return archive


def _files(package: Mapping[str, Any], archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The wanted files, named without the folder that every npm package has around them."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if ".." not in name and any(fnmatch(name, wanted) for wanted in package["files"]):
                content = tar.extractfile(member)
                if content is not None:
                    yield name, content.read()


if __name__ == "__main__":
    try:
        bring()
    except (OSError, ValueError) as exc:
        sys.exit(f"the web console's parts could not be fetched: {exc}")
