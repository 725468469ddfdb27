"""What a shell may offer for a word, computed while the user waits: quick, and silent about every trouble."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import click

from tartlet.errors import UserError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from tartlet.vm.stored.folder import VmFolder

STANDING = ("--help", "--help-hidden", "--version", "--generate-completion-script")


def any_vms(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[str]:
    """Whatever can be cloned, exported or deleted."""
    return local_vms(ctx, param, incomplete) + cached_images(ctx, param, incomplete)


def cached_images(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[str]:  # noqa: ARG001
    """Names of images in the cache."""
    from tartlet.host.paths import Home
    from tartlet.image.cache.cache import ImageCache
    from tartlet.settings import Settings

    try:
        found = [str(cached.name) for cached in ImageCache(Home(Settings.read().home)).names()]
    except (UserError, OSError):
        return []
    return [name for name in found if name.startswith(incomplete)]


def local_vms(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[str]:  # noqa: ARG001
    """Local VMs."""
    return [vm.name for vm in _vms() if vm.name.startswith(incomplete)]


def running_vms(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[str]:  # noqa: ARG001
    """Local VMs that run."""
    return [vm.name for vm in _vms() if vm.name.startswith(incomplete) and vm.supervisor()]


def interfaces(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[str]:  # noqa: ARG001
    """What a VM can be bridged to."""
    from tartlet.network.cards.interfaces import usable

    try:
        return [one.name for one in usable() if one.name.startswith(incomplete)]
    except (UserError, subprocess.TimeoutExpired):
        return []


def _vms() -> list[VmFolder]:
    """All local VMs; nothing is made or collected in the home for a mere key press."""
    from tartlet.host.paths import Home
    from tartlet.settings import Settings
    from tartlet.vm.stored.store import VmStore

    try:
        return VmStore(Home(Settings.read().home)).all()
    except (UserError, OSError):
        return []


def files(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Paths of files; the shell finds them itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def directories(
    ctx: click.Context,  # noqa: ARG001
    param: click.Parameter | None,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    """Paths of folders; the shell finds them itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def verbs(ctx: click.Context, param: click.Parameter | None, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """The verbs of the command."""
    from click.shell_completion import CompletionItem

    from tartlet.cli.verb_table import VERBS

    return [CompletionItem(name, help=line) for name, line in VERBS.items() if name.startswith(incomplete)]


def standing_options(incomplete: str) -> list[CompletionItem]:
    """The options that every command has."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in STANDING if name.startswith(incomplete)]
