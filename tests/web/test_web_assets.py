"""noVNC and xterm.js are what the list says, or they do not get in."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def registry(folder: Path, script: Path) -> Path:
    """A registry of files with one package, and the script with a list that names it; the package."""
    archive = folder / "@team/thing/-/thing-1.0.0.tgz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/lib/thing.js", "package/LICENSE", "package/test/other.js", "package/lib/../../out.js"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    entry = {"package": "@team/thing", "version": "1.0.0", "licence": "MIT", "source": "https://example.com/thing"}
    listed = [entry | {"integrity": integrity, "into": "thing", "files": ["lib/*", "LICENSE"]}]
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "scripts/web_assets.py", script)
    script.with_suffix(".json").write_text(json.dumps(listed))
    return archive


def fetched(script: Path, registry: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "npm_config_registry": registry.as_uri()}
    return subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=30
    )


def test_only_listed_files_of_a_checked_package_are_taken(tmp_path: Path) -> None:
    checkout, npm = tmp_path / "checkout", tmp_path / "npm"
    script, static = checkout / "scripts/web_assets.py", checkout / "src/tartlet/web/static"
    static.parent.mkdir(parents=True)
    archive = registry(npm, script)
    assert fetched(script, npm).returncode == 0
    files = sorted(str(path.relative_to(static)) for path in static.rglob("*") if path.is_file())
    assert files == ["README.txt", "thing/LICENSE", "thing/lib/thing.js"]
    assert "https://example.com/thing" in (static / "README.txt").read_text()

    archive.write_bytes(archive.read_bytes() + b"\0")
    assert fetched(script, npm).returncode == 0, "nothing to do, so nothing is fetched"
    (static / "README.txt").unlink()
    refused = fetched(script, npm)
    assert (refused.returncode, "checksum differs" in refused.stderr) == (1, True)
    assert (static / "thing/lib/thing.js").exists(), "what was there stays"
    assert not list(static.parent.glob(".static-*"))


def test_a_wheel_has_the_page_and_the_licences(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    static = {"README.txt", "novnc/core/rfb.js", "novnc/docs/LICENSE.MPL-2.0", "xterm/lib/xterm.mjs", "xterm/LICENSE"}
    assert {f"tartlet/web/static/{name}" for name in static} <= names
    assert {"tartlet/web/page/index.html", "tartlet/web/page/page.js"} <= names
