"""The files of the page: our own in `page`, noVNC and xterm.js in `static` (see `scripts/web_assets.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tartlet.errors import UserError

_HERE = Path(__file__).parent
KINDS: Mapping[str, str] = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}
"""What is served at all, and as what."""


class AssetsMissing(UserError):
    """This installation was made without noVNC and xterm.js."""

    def __init__(self) -> None:
        super().__init__(
            "this installation has no web console: noVNC and xterm.js are missing from it",
            "in a checkout `scripts/web_assets.py` fetches them; releases have them",
        )


def found() -> Mapping[str, Path]:
    """The files by the names they are served under. Raises AssetsMissing."""
    if not (_HERE / "static/README.txt").is_file():
        raise AssetsMissing
    own = {path.name: path for path in (_HERE / "page").iterdir()}
    others = {str(path.relative_to(_HERE)): path for path in (_HERE / "static").rglob("*")}
    return {name: path for name, path in (own | others).items() if path.suffix in KINDS}


def page(name: str) -> str:
    """The text of one of our own pages."""
    return (_HERE / "page" / name).read_text(encoding="utf-8")
