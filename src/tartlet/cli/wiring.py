"""What the verbs are given: settings, the home and the store, each made when a verb first asks for it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import click

from tartlet.errors import UserError

if TYPE_CHECKING:
    from tartlet.host.paths import Home
    from tartlet.image.cache.cache import ImageCache
    from tartlet.settings import Settings
    from tartlet.vm.stored.store import VmStore


class App:
    """One invocation's parts. Nothing is read, made or imported before it is used."""

    @cached_property
    def settings(self) -> Settings:
        """What the environment decides."""
        from tartlet.settings import Settings

        return Settings.read()

    @cached_property
    def home(self) -> Home:
        """The home, with its folders in place. Raises FileTrouble."""
        from tartlet.host.paths import Home

        return Home(self.settings.home).prepared()

    @cached_property
    def store(self) -> VmStore:
        """The local VMs; what ended processes left in `tmp` is collected first. Raises FileTrouble."""
        self.collect_garbage()
        return self.uncollected_store

    @cached_property
    def uncollected_store(self) -> VmStore:
        """The local VMs, for a verb that may go on with what an earlier call left in `tmp`. Raises FileTrouble."""
        from tartlet.vm.stored.store import VmStore

        return VmStore(self.home)

    @cached_property
    def images(self) -> ImageCache:
        """The images in the cache. Raises FileTrouble."""
        from tartlet.image.cache.cache import ImageCache

        return ImageCache(self.home)

    @property
    def has_images(self) -> bool:
        """Whether anything was ever pulled: if not, `images` need not be made. Raises FileTrouble."""
        return (self.home.cache / "OCIs").is_dir()

    def collect_garbage(self) -> None:
        """Empty `tmp` of what nobody holds. That it cannot be done is said, and is no reason to stop."""
        from tartlet.host import scratch

        try:
            scratch.collect(self.home.tmp)
        except (UserError, OSError) as exc:
            click.echo(f"failed to collect what ended commands left behind: {exc}", err=True)
