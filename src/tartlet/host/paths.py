"""Where things are kept: the home and its folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tartlet.errors import FileTrouble


@dataclass(frozen=True, slots=True)
class Home:
    """The folder everything is kept in, and the names inside it. A value: making one touches nothing."""

    root: Path

    @property
    def vms(self) -> Path:
        """Local VMs, a folder each."""
        return self.root / "vms"

    @property
    def cache(self) -> Path:
        """What can be fetched or built again. May be a symbolic link to another folder."""
        return self.root / "cache"

    @property
    def tmp(self) -> Path:
        """Work in progress: each entry is locked by its maker, unlocked ones are rubbish."""
        return self.root / "tmp"

    def prepared(self) -> Home:
        """The same home with its root, `cache` and `tmp` in place. Raises FileTrouble naming what cannot be made."""
        for folder in (self.root, self.cache, self.tmp):
            made(folder)
        return self


def made(folder: Path) -> Path:
    """`folder`, each missing component made from the root down. Raises FileTrouble naming the first that cannot be."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise _refused(folder, NotADirectoryError(20, "it exists and is not a folder")) from None
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        made(folder.parent)
        return made(folder)
    except NotADirectoryError:
        made(folder.parent)  # names the component that is in the way
        raise
    except OSError as exc:
        if not folder.is_dir():  # a read-only parent says EROFS or EACCES although the folder is there
            raise _refused(folder, exc) from exc
    return folder


def _refused(folder: Path, cause: OSError) -> FileTrouble:
    return FileTrouble("cannot make the folder", folder, cause, "choose another home with TART_HOME, or mend this one")
