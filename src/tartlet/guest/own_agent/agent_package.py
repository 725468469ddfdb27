"""Our own agent as a package for Debian and Ubuntu, made without their tools and the same every time.

The format is deb(5): an ar(5) archive of a version, a tar archive about the package, and one of its files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import re
import tarfile
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path, PurePosixPath

from tartlet.guest.own_agent.agent_files import executable, packaged
from tartlet.guest.own_agent.tart_agent import NAME
from tartlet.version import __version__

MADE = 1_700_000_000
"""The time of everything in it, in Unix seconds, where none is given."""

_TEXTS = Path(__file__).with_name("package")
_MAN_PAGE, _COPYRIGHT, _CHANGELOG = (
    f"/usr/share/{name}" for name in (f"man/man8/{NAME}.8.gz", f"doc/{NAME}/copyright", f"doc/{NAME}/changelog.gz")
)


def debian_version(version: str = __version__) -> str:
    """Debian's form of a version of ours; what comes before a release sorts before it (deb-version(7))."""
    return re.sub(r"\.?(dev|a|b|rc)(?=\d)", r"~\1", version)


def agent_package(*, made: int = MADE) -> tuple[str, bytes]:
    """The name and content of the package's file: `tart-agent_0.1.0_all.deb`. `made` is the time that it tells."""
    files = {**packaged(), **_documents(made)}
    version = debian_version()
    about = {
        "control": _control(version, files),
        "md5sums": _sums(files),
        "postinst": _text("postinst"),
        "postrm": _text("postrm"),
    }
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _tar(about, made),
        "data.tar.xz": _tar(files, made),
    }
    content = b"!<arch>\n" + b"".join(_member(name, part, made) for name, part in parts.items())
    return f"{NAME}_{version}_all.deb", content


def _text(name: str) -> bytes:
    return (_TEXTS / name).read_bytes()


def _control(version: str, files: Mapping[str, bytes]) -> bytes:
    size = sum(-(-len(content) // 1024) for content in files.values()) + len(_folders(files))
    return _text("control").decode().format(version=version, kibibytes=size).encode()


def _documents(made: int) -> dict[str, bytes]:
    change = f"{NAME} ({debian_version()}) unstable; urgency=medium\n\n  * Made from Tartlet {__version__}.\n\n"
    change += f" -- The Tartlet developers <{NAME}@localhost>  {formatdate(made)}\n"
    return {
        _MAN_PAGE: gzip.compress(_text(f"{NAME}.8"), mtime=0),
        _COPYRIGHT: _text("copyright"),
        _CHANGELOG: gzip.compress(change.encode(), mtime=0),
    }


def _sums(files: Mapping[str, bytes]) -> bytes:
    lines = (
        f"{hashlib.md5(files[path], usedforsecurity=False).hexdigest()}  {path.lstrip('/')}\n" for path in sorted(files)
    )
    return "".join(lines).encode()


def _folders(files: Mapping[str, bytes]) -> list[str]:
    """All folders on the way to the files, without slashes around them, each after the one it is in."""
    return sorted({str(folder) for path in files for folder in PurePosixPath(path.lstrip("/")).parents})


def _tar(files: Mapping[str, bytes], made: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for folder in _folders(files):
            archive.addfile(_entry(folder if folder == "." else f"./{folder}", 0o755, made, tarfile.DIRTYPE))
        for path in sorted(files):
            entry = _entry(f"./{path.lstrip('/')}", 0o755 if executable(files[path]) else 0o644, made)
            entry.size = len(files[path])
            archive.addfile(entry, io.BytesIO(files[path]))
    return lzma.compress(written.getvalue())


def _entry(name: str, mode: int, made: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, made
    entry.uname = entry.gname = "root"
    return entry


def _member(name: str, content: bytes, made: int) -> bytes:
    head = f"{name:<16}{made:<12}{0:<6}{0:<6}{0o100644:<8o}{len(content):<10}`\n"
    return head.encode() + content + b"\n" * (len(content) % 2)
