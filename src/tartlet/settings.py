"""What the environment decides, read once and then passed as an argument."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One process's settings. A value: making one touches no file."""

    home: Path
    """Where everything is kept, an absolute path: `TART_HOME`, else `~/.tart`."""

    home_was_named: bool
    """Whether `TART_HOME` chose it."""

    no_auto_prune: bool
    """`TART_NO_AUTO_PRUNE` is present, even empty: pulls and clones remove nothing to make room."""

    plain_progress: bool
    """`CI` is present: progress as plain lines, and addresses printed instead of opened."""

    debug: bool
    """`TART_LOG=debug`: what the library does is logged to standard error."""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """The settings of `environment`. An empty `TART_HOME` counts as none."""
        named = environment.get("TART_HOME", "")
        home = Path(named) if named else Path(environment.get("HOME") or Path.home()) / ".tart"
        return cls(
            home=home.absolute(),
            home_was_named=bool(named),
            no_auto_prune="TART_NO_AUTO_PRUNE" in environment,
            plain_progress="CI" in environment,
            debug=environment.get("TART_LOG", "").lower() == "debug",
        )
