"""Virtual machines on Linux: the functions and values behind the `tart` command.

The names here are the public ones; each is imported from its module when it is first used, because the command imports
this package at every start. `docs/reference/library.md` shows how they go together.
"""

TYPE_CHECKING = False  # typing's own would take longer to import than everything else here
if TYPE_CHECKING:
    from tartlet.archive.errors import BadArchive
    from tartlet.disk.model import DiskFormat
    from tartlet.errors import FileTrouble, InvalidArgument, ToolFailed, ToolMissing, UserError
    from tartlet.guest.client.agent_install import install_agent, install_agent_by_ssh
    from tartlet.guest.client.copying import copy_from, copy_into
    from tartlet.guest.client.file_status import GuestFile, list_folder, stat_path
    from tartlet.guest.client.files import (
        TooLarge,
        read_file,
        read_stream,
        read_tree,
        write_file,
        write_stream,
        write_tree,
    )
    from tartlet.guest.client.path_errors import (
        GuestPathForbidden,
        GuestPathIsFolder,
        GuestPathMissing,
        GuestPathTrouble,
    )
    from tartlet.guest.client.port_forward import forwarded
    from tartlet.guest.commands import Command
    from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable
    from tartlet.guest.own_agent.agent_package import agent_package
    from tartlet.guest.rpc.channel import GuestChannel, connect
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
    from tartlet.network.filter_state import FilterState
    from tartlet.network.install.setup import SystemChange, network_remove, network_setup
    from tartlet.network.rules.refusals import Refusal
    from tartlet.network.status import NetworkedVm, SharedNetwork, change_setting, reset_setting, shared_networks
    from tartlet.settings import Settings
    from tartlet.version import __version__
    from tartlet.vm.control.change_live import change_running
    from tartlet.vm.control.filter_state import filter_state, filter_states
    from tartlet.vm.control.fork import ForkFailed, VmExists, fork
    from tartlet.vm.control.screen import click, move_pointer, press_keys, screenshot, type_text
    from tartlet.vm.control.snapshot import SnapshotExists, create_snapshot, delete_snapshot, restore_snapshot
    from tartlet.vm.control.stop import request_suspend, stop, wait_until_stopped
    from tartlet.vm.control.sync_now import Synchronised, sync_now
    from tartlet.vm.control.web_link import open_web, web_link
    from tartlet.vm.images.clone_image import clone_image
    from tartlet.vm.images.export import Exported, export
    from tartlet.vm.images.import_archive import import_archive
    from tartlet.vm.images.prune import prune, reclaim
    from tartlet.vm.images.pull import pull
    from tartlet.vm.images.push import PushOptions, push
    from tartlet.vm.planning.options import RunOptions
    from tartlet.vm.running.lifecycle import VmAlreadyRunning, running
    from tartlet.vm.running.live import RunningVm
    from tartlet.vm.stored.bridged import BridgedVm, bridged_vms
    from tartlet.vm.stored.change import Changes, change
    from tartlet.vm.stored.clone import clone
    from tartlet.vm.stored.create import create_empty
    from tartlet.vm.stored.ended import Ending, LastRun, last_run
    from tartlet.vm.stored.folder import VmFolder, VmIncomplete
    from tartlet.vm.stored.listing import Entry, local_entries
    from tartlet.vm.stored.model import Display, VmConfig, VmState
    from tartlet.vm.stored.refusals import refusals
    from tartlet.vm.stored.snapshot_names import Snapshot, SnapshotMissing, snapshots
    from tartlet.vm.stored.store import VmMissing, VmNotRunning, VmRunning, VmStore

_MODULES = {
    "archive.errors": ("BadArchive",),
    "disk.model": ("DiskFormat",),
    "errors": ("FileTrouble", "InvalidArgument", "ToolFailed", "ToolMissing", "UserError"),
    "guest.client.agent_install": ("install_agent", "install_agent_by_ssh"),
    "guest.own_agent.agent_package": ("agent_package",),
    "guest.rpc.channel": ("GuestChannel", "connect"),
    "guest.commands": ("Command",),
    "guest.client.copying": ("copy_from", "copy_into"),
    "guest.errors": ("AgentCannot", "AgentFailed", "AgentUnavailable"),
    "guest.client.file_status": ("GuestFile", "list_folder", "stat_path"),
    "guest.client.files": (
        "TooLarge",
        "read_file",
        "read_stream",
        "read_tree",
        "write_file",
        "write_stream",
        "write_tree",
    ),
    "guest.client.path_errors": ("GuestPathForbidden", "GuestPathIsFolder", "GuestPathMissing", "GuestPathTrouble"),
    "guest.client.port_forward": ("forwarded",),
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
    "network.filter_state": ("FilterState",),
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
    "vm.stored.bridged": ("BridgedVm", "bridged_vms"),
    "vm.stored.change": ("Changes", "change"),
    "vm.control.change_live": ("change_running",),
    "vm.stored.clone": ("clone",),
    "vm.images.clone_image": ("clone_image",),
    "vm.stored.create": ("create_empty",),
    "vm.stored.ended": ("Ending", "LastRun", "last_run"),
    "vm.images.export": ("Exported", "export"),
    "vm.control.filter_state": ("filter_state", "filter_states"),
    "vm.stored.folder": ("VmFolder", "VmIncomplete"),
    "vm.control.fork": ("ForkFailed", "VmExists", "fork"),
    "vm.images.import_archive": ("import_archive",),
    "vm.running.lifecycle": ("VmAlreadyRunning", "running"),
    "vm.stored.listing": ("Entry", "local_entries"),
    "vm.running.live": ("RunningVm",),
    "vm.stored.model": ("Display", "VmConfig", "VmState"),
    "vm.planning.options": ("RunOptions",),
    "vm.images.pull": ("pull",),
    "vm.images.push": ("PushOptions", "push"),
    "vm.stored.refusals": ("refusals",),
    "vm.control.screen": ("click", "move_pointer", "press_keys", "screenshot", "type_text"),
    "vm.images.prune": ("prune", "reclaim"),
    "vm.control.snapshot": ("SnapshotExists", "create_snapshot", "delete_snapshot", "restore_snapshot"),
    "vm.stored.snapshot_names": ("Snapshot", "SnapshotMissing", "snapshots"),
    "vm.control.stop": ("request_suspend", "stop", "wait_until_stopped"),
    "vm.control.sync_now": ("Synchronised", "sync_now"),
    "vm.stored.store": ("VmMissing", "VmNotRunning", "VmRunning", "VmStore"),
    "vm.control.web_link": ("open_web", "web_link"),
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
