"""Virtual machines on Linux: the functions and values behind the `tart` command.

The names here are the public ones; each is imported from its module when it is first used, because the command imports
this package at every start. `docs/reference/library.md` shows how they go together.
"""

TYPE_CHECKING = False  # typing's own would take longer to import than everything else here
if TYPE_CHECKING:
    from tartlet.archive.errors import BadArchive
    from tartlet.disk.model import DiskFormat
    from tartlet.errors import FileTrouble, InvalidArgument, ToolFailed, ToolMissing, UserError
    from tartlet.guest.agent_install import install_agent, install_agent_by_ssh
    from tartlet.guest.agent_package import agent_package
    from tartlet.guest.channel import GuestChannel, connect
    from tartlet.guest.commands import Command
    from tartlet.guest.copying import copy_from, copy_into
    from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable
    from tartlet.guest.file_status import GuestFile, list_folder, stat_path
    from tartlet.guest.files import (
        TooLarge,
        read_file,
        read_stream,
        read_tree,
        write_file,
        write_stream,
        write_tree,
    )
    from tartlet.guest.path_errors import (
        GuestPathForbidden,
        GuestPathIsFolder,
        GuestPathMissing,
        GuestPathTrouble,
    )
    from tartlet.guest.port_forward import forwarded
    from tartlet.host.paths import Home
    from tartlet.image.cache.cache import ImageCache
    from tartlet.image.cache.cached_image import CachedImage, ImageMissing
    from tartlet.image.cache.prune import Prunable, Pruned
    from tartlet.image.credentials.secret import Credentials
    from tartlet.image.format.reference import ImageName
    from tartlet.image.progress import TransferProgress
    from tartlet.image.pull.pull import Pulled
    from tartlet.image.push.push import Pushed
    from tartlet.image.sign_in import CredentialStore, InvalidCredentials, log_in, log_out
    from tartlet.network.cards.interfaces import (
        HostInterface,
        InterfaceKind,
        InterfaceMissing,
        InterfaceUnfit,
        bridged_interfaces,
    )
    from tartlet.network.install.setup import SystemChange, network_remove, network_setup
    from tartlet.network.rules.filter_state import FilterState
    from tartlet.network.rules.refusals import Refusal
    from tartlet.network.status import NetworkedVm, SharedNetwork, change_setting, reset_setting, shared_networks
    from tartlet.settings import Settings
    from tartlet.version import __version__
    from tartlet.vm.bridged import BridgedVm, bridged_vms
    from tartlet.vm.change import Changes, change
    from tartlet.vm.change_live import change_running
    from tartlet.vm.clone import clone
    from tartlet.vm.clone_image import clone_image
    from tartlet.vm.create import create_empty
    from tartlet.vm.ended import Ending, LastRun, last_run
    from tartlet.vm.export import Exported, export
    from tartlet.vm.filter_state import filter_state, filter_states
    from tartlet.vm.folder import VmFolder, VmIncomplete
    from tartlet.vm.folder_sync import Synchronised
    from tartlet.vm.fork import ForkFailed, VmExists, fork
    from tartlet.vm.import_archive import import_archive
    from tartlet.vm.lifecycle import VmAlreadyRunning, running
    from tartlet.vm.listing import Entry, local_entries
    from tartlet.vm.live import RunningVm
    from tartlet.vm.model import Display, VmConfig, VmState
    from tartlet.vm.options import RunOptions
    from tartlet.vm.prune import prune, reclaim
    from tartlet.vm.pull import pull
    from tartlet.vm.push import PushOptions, push
    from tartlet.vm.refusals import refusals
    from tartlet.vm.screen import click, move_pointer, press_keys, screenshot, type_text
    from tartlet.vm.snapshot import SnapshotExists, create_snapshot, delete_snapshot, restore_snapshot
    from tartlet.vm.snapshot_names import Snapshot, SnapshotMissing, snapshots
    from tartlet.vm.stop import request_suspend, stop, wait_until_stopped
    from tartlet.vm.store import VmMissing, VmNotRunning, VmRunning, VmStore
    from tartlet.vm.sync_now import sync_now
    from tartlet.vm.web import open_web, web_link

_MODULES = {
    "archive.errors": ("BadArchive",),
    "disk.model": ("DiskFormat",),
    "errors": ("FileTrouble", "InvalidArgument", "ToolFailed", "ToolMissing", "UserError"),
    "guest.agent_install": ("install_agent", "install_agent_by_ssh"),
    "guest.agent_package": ("agent_package",),
    "guest.channel": ("GuestChannel", "connect"),
    "guest.commands": ("Command",),
    "guest.copying": ("copy_from", "copy_into"),
    "guest.errors": ("AgentCannot", "AgentFailed", "AgentUnavailable"),
    "guest.file_status": ("GuestFile", "list_folder", "stat_path"),
    "guest.files": (
        "TooLarge",
        "read_file",
        "read_stream",
        "read_tree",
        "write_file",
        "write_stream",
        "write_tree",
    ),
    "guest.path_errors": ("GuestPathForbidden", "GuestPathIsFolder", "GuestPathMissing", "GuestPathTrouble"),
    "guest.port_forward": ("forwarded",),
    "host.paths": ("Home",),
    "image.cache.cache": ("ImageCache",),
    "image.cache.cached_image": ("CachedImage", "ImageMissing"),
    "image.cache.prune": ("Prunable", "Pruned"),
    "image.credentials.secret": ("Credentials",),
    "image.format.reference": ("ImageName",),
    "image.progress": ("TransferProgress",),
    "image.pull.pull": ("Pulled",),
    "image.push.push": ("Pushed",),
    "image.sign_in": ("CredentialStore", "InvalidCredentials", "log_in", "log_out"),
    "network.rules.filter_state": ("FilterState",),
    "network.cards.interfaces": (
        "HostInterface",
        "InterfaceKind",
        "InterfaceMissing",
        "InterfaceUnfit",
        "bridged_interfaces",
    ),
    "network.rules.refusals": ("Refusal",),
    "network.install.setup": ("SystemChange", "network_remove", "network_setup"),
    "network.status": ("NetworkedVm", "SharedNetwork", "change_setting", "reset_setting", "shared_networks"),
    "settings": ("Settings",),
    "version": ("__version__",),
    "vm.bridged": ("BridgedVm", "bridged_vms"),
    "vm.change": ("Changes", "change"),
    "vm.change_live": ("change_running",),
    "vm.clone": ("clone",),
    "vm.clone_image": ("clone_image",),
    "vm.create": ("create_empty",),
    "vm.ended": ("Ending", "LastRun", "last_run"),
    "vm.export": ("Exported", "export"),
    "vm.filter_state": ("filter_state", "filter_states"),
    "vm.folder": ("VmFolder", "VmIncomplete"),
    "vm.folder_sync": ("Synchronised",),
    "vm.fork": ("ForkFailed", "VmExists", "fork"),
    "vm.import_archive": ("import_archive",),
    "vm.lifecycle": ("VmAlreadyRunning", "running"),
    "vm.listing": ("Entry", "local_entries"),
    "vm.live": ("RunningVm",),
    "vm.model": ("Display", "VmConfig", "VmState"),
    "vm.options": ("RunOptions",),
    "vm.pull": ("pull",),
    "vm.push": ("PushOptions", "push"),
    "vm.refusals": ("refusals",),
    "vm.screen": ("click", "move_pointer", "press_keys", "screenshot", "type_text"),
    "vm.prune": ("prune", "reclaim"),
    "vm.snapshot": ("SnapshotExists", "create_snapshot", "delete_snapshot", "restore_snapshot"),
    "vm.snapshot_names": ("Snapshot", "SnapshotMissing", "snapshots"),
    "vm.stop": ("request_suspend", "stop", "wait_until_stopped"),
    "vm.sync_now": ("sync_now",),
    "vm.store": ("VmMissing", "VmNotRunning", "VmRunning", "VmStore"),
    "vm.web": ("open_web", "web_link"),
}

__all__ = [
    "AgentCannot",
    "AgentFailed",
    "AgentUnavailable",
    "BadArchive",
    "BridgedVm",
    "CachedImage",
    "Changes",
    "Command",
    "CredentialStore",
    "Credentials",
    "DiskFormat",
    "Display",
    "Ending",
    "Entry",
    "Exported",
    "FileTrouble",
    "FilterState",
    "ForkFailed",
    "GuestChannel",
    "GuestFile",
    "GuestPathForbidden",
    "GuestPathIsFolder",
    "GuestPathMissing",
    "GuestPathTrouble",
    "Home",
    "HostInterface",
    "ImageCache",
    "ImageMissing",
    "ImageName",
    "InterfaceKind",
    "InterfaceMissing",
    "InterfaceUnfit",
    "InvalidArgument",
    "InvalidCredentials",
    "LastRun",
    "NetworkedVm",
    "Prunable",
    "Pruned",
    "Pulled",
    "PushOptions",
    "Pushed",
    "Refusal",
    "RunOptions",
    "RunningVm",
    "Settings",
    "SharedNetwork",
    "Snapshot",
    "SnapshotExists",
    "SnapshotMissing",
    "Synchronised",
    "SystemChange",
    "TooLarge",
    "ToolFailed",
    "ToolMissing",
    "TransferProgress",
    "UserError",
    "VmAlreadyRunning",
    "VmConfig",
    "VmExists",
    "VmFolder",
    "VmIncomplete",
    "VmMissing",
    "VmNotRunning",
    "VmRunning",
    "VmState",
    "VmStore",
    "__version__",
    "agent_package",
    "bridged_interfaces",
    "bridged_vms",
    "change",
    "change_running",
    "change_setting",
    "click",
    "clone",
    "clone_image",
    "connect",
    "copy_from",
    "copy_into",
    "create_empty",
    "create_snapshot",
    "delete_snapshot",
    "export",
    "filter_state",
    "filter_states",
    "fork",
    "forwarded",
    "import_archive",
    "install_agent",
    "install_agent_by_ssh",
    "last_run",
    "list_folder",
    "local_entries",
    "log_in",
    "log_out",
    "move_pointer",
    "network_remove",
    "network_setup",
    "open_web",
    "press_keys",
    "prune",
    "pull",
    "push",
    "read_file",
    "read_stream",
    "read_tree",
    "reclaim",
    "refusals",
    "request_suspend",
    "reset_setting",
    "restore_snapshot",
    "running",
    "screenshot",
    "shared_networks",
    "snapshots",
    "stat_path",
    "stop",
    "sync_now",
    "type_text",
    "wait_until_stopped",
    "web_link",
    "write_file",
    "write_stream",
    "write_tree",
]


def __getattr__(name: str) -> object:
    """Import a public name where it lives, once. Raises AttributeError for any other."""
    for module, names in _MODULES.items():
        if name in names:
            from importlib import import_module

            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
