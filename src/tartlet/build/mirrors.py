"""Where the packages come from: what the user says, else what this machine itself uses, else the distribution's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tartlet.build.suites import Distribution, Suite

APT_FOLDER = Path("/etc/apt")


def sources(
    suite: Suite, architecture: str, *, apt: Path = APT_FOLDER, env: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Lines of sources.list(5) for a release: its packages, its updates, its security updates.

    `TART_DEBIAN_MIRROR` and `TART_DEBIAN_SECURITY_MIRROR` (`TART_UBUNTU_…`) name other servers. Without them
    those of this machine's own apt are taken, when it is of the same distribution.
    """
    main, security = _servers(suite.distribution, architecture, apt, env)
    components = " ".join(suite.distribution.components)
    return (
        f"deb {main} {suite.codename} {components}",
        f"deb {main} {suite.codename}-updates {components}",
        f"deb {security} {suite.codename}-security {components}",
    )


def _servers(distribution: Distribution, architecture: str, apt: Path, env: Mapping[str, str]) -> tuple[str, str]:
    own = distribution.ports_mirror if architecture != "amd64" else None
    main, security = own or distribution.mirror, own or distribution.security_mirror
    if own is None:  # what a machine of another architecture uses says nothing about a ports server
        for uri, name in _host_sources(apt):
            if not uri.rstrip("/").endswith((f"/{distribution.name}", f"/{distribution.name}-security")):
                continue
            if name.endswith("-security"):
                security = uri.rstrip("/")
            elif "-" not in name:
                main = uri.rstrip("/")
    prefix = f"TART_{distribution.name.upper()}"
    return env.get(f"{prefix}_MIRROR") or main, env.get(f"{prefix}_SECURITY_MIRROR") or security


def _host_sources(apt: Path) -> Iterator[tuple[str, str]]:
    """Address and suite of each binary source apt knows here, in the order of its files."""
    folder = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(folder.glob("*.list"))):
        if path.is_file():
            yield from _one_line_style(path.read_text(errors="replace"))
    for path in sorted(folder.glob("*.sources")):
        yield from _deb822_style(path.read_text(errors="replace"))


def _one_line_style(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        if len(words) > 1 and words[1].startswith("["):
            closing = next((at for at, word in enumerate(words) if word.endswith("]")), len(words))
            words = [words[0], *words[closing + 1 :]]
        if len(words) >= 3 and words[1].startswith(("http://", "https://")):
            yield words[1], words[2]


def _deb822_style(text: str) -> Iterator[tuple[str, str]]:
    for paragraph in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if not line.startswith((" ", "\t")):
                name = line.partition(":")[0]
            value = line.removeprefix(f"{name}:")
            fields.setdefault(name.lower(), []).extend(value.split())
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() == "no":
            continue
        for uri in fields.get("uris", []):
            if uri.startswith(("http://", "https://")):
                yield from ((uri, suite) for suite in fields.get("suites", []))
