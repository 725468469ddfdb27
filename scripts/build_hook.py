"""Part of the build of a package: fetches what is not in the repository (see `web_assets.py`)."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface[Any]):
    """Without network the package is built all the same; it says so then, and its `--web` tells what is missing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's names
        """Called before files are collected. An editable installation uses what `scripts/setup` has fetched."""
        if version == "editable":
            return
        script = runpy.run_path(str(Path(self.root) / "scripts/web_assets.py"))
        try:
            script["bring"]()
        except (OSError, ValueError) as exc:
            self.app.display_warning(f"the package will have no web console: {exc}")
