"""The names that users of the library rely on: adding one is a decision, losing one is a break."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tartlet

PUBLIC = {
    "tartlet.archive.errors": {"BadArchive"},
    "tartlet.disk.model": {"DiskFormat"},
    "tartlet.errors": {"FileTrouble", "InvalidArgument", "ToolFailed", "ToolMissing", "UserError"},
    "tartlet.guest.client.agent_install": {"install_agent", "install_agent_by_ssh"},
    "tartlet.guest.own_agent.agent_package": {"agent_package"},
    "tartlet.guest.rpc.channel": {"GuestChannel", "connect"},
    "tartlet.guest.commands": {"Command"},
    "tartlet.guest.client.copying": {"copy_from", "copy_into"},
    "tartlet.guest.errors": {"AgentCannot", "AgentFailed", "AgentUnavailable"},
    "tartlet.guest.client.file_status": {"GuestFile", "list_folder", "stat_path"},
    "tartlet.guest.client.files": {
        "TooLarge",
        "read_file",
        "read_stream",
        "read_tree",
        "write_file",
        "write_stream",
        "write_tree",
    },
    "tartlet.guest.client.path_errors": {
        "GuestPathForbidden",
        "GuestPathIsFolder",
        "GuestPathMissing",
        "GuestPathTrouble",
    },
    "tartlet.guest.client.port_forward": {"forwarded"},
    "tartlet.host.paths": {"Home"},
    "tartlet.image.cache.cache": {"ImageCache"},
    "tartlet.image.cache.cached_image": {"CachedImage", "ImageMissing"},
    "tartlet.image.cache.prune": {"Prunable", "Pruned"},
    "tartlet.image.progress": {"TransferProgress"},
    "tartlet.image.pull.pull": {"Pulled"},
    "tartlet.image.push.push": {"Pushed"},
    "tartlet.image.format.reference": {"ImageName"},
    "tartlet.image.credentials.secret": {"Credentials"},
    "tartlet.image.sign_in": {"CredentialStore", "InvalidCredentials", "log_in", "log_out"},
    "tartlet.network.filter_state": {"FilterState"},
    "tartlet.network.cards.interfaces": {
        "HostInterface",
        "InterfaceKind",
        "InterfaceMissing",
        "InterfaceUnfit",
        "bridged_interfaces",
    },
    "tartlet.network.rules.refusals": {"Refusal"},
    "tartlet.network.install.setup": {"SystemChange", "network_remove", "network_setup"},
    "tartlet.network.status": {"NetworkedVm", "SharedNetwork", "change_setting", "reset_setting", "shared_networks"},
    "tartlet.settings": {"Settings"},
    "tartlet.version": {"__version__"},
    "tartlet.vm.stored.bridged": {"BridgedVm", "bridged_vms"},
    "tartlet.vm.stored.change": {"Changes", "change"},
    "tartlet.vm.control.change_live": {"change_running"},
    "tartlet.vm.stored.clone": {"clone"},
    "tartlet.vm.images.clone_image": {"clone_image"},
    "tartlet.vm.stored.create": {"create_empty"},
    "tartlet.vm.stored.ended": {"Ending", "LastRun", "last_run"},
    "tartlet.vm.images.export": {"Exported", "export"},
    "tartlet.vm.control.filter_state": {"filter_state", "filter_states"},
    "tartlet.vm.stored.folder": {"VmFolder", "VmIncomplete"},
    "tartlet.vm.control.fork": {"ForkFailed", "VmExists", "fork"},
    "tartlet.vm.images.import_archive": {"import_archive"},
    "tartlet.vm.running.lifecycle": {"VmAlreadyRunning", "running"},
    "tartlet.vm.stored.listing": {"Entry", "local_entries"},
    "tartlet.vm.running.live": {"RunningVm"},
    "tartlet.vm.stored.model": {"Display", "VmConfig", "VmState"},
    "tartlet.vm.planning.options": {"RunOptions"},
    "tartlet.vm.images.pull": {"pull"},
    "tartlet.vm.images.push": {"PushOptions", "push"},
    "tartlet.vm.stored.refusals": {"refusals"},
    "tartlet.vm.control.screen": {"click", "move_pointer", "press_keys", "screenshot", "type_text"},
    "tartlet.vm.images.prune": {"prune", "reclaim"},
    "tartlet.vm.control.snapshot": {"SnapshotExists", "create_snapshot", "delete_snapshot", "restore_snapshot"},
    "tartlet.vm.stored.snapshot_names": {"Snapshot", "SnapshotMissing", "snapshots"},
    "tartlet.vm.control.stop": {"request_suspend", "stop", "wait_until_stopped"},
    "tartlet.vm.control.sync_now": {"Synchronised", "sync_now"},
    "tartlet.vm.control.web_link": {"open_web", "web_link"},
    "tartlet.vm.stored.store": {"VmMissing", "VmNotRunning", "VmRunning", "VmStore"},
}


def test_these_and_no_others_are_public() -> None:
    assert set(tartlet.__all__) == {name for names in PUBLIC.values() for name in names}
    assert len(tartlet.__all__) == len(set(tartlet.__all__))


@pytest.mark.parametrize("name", tartlet.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(tartlet, name)
    assert name in dir(tartlet)
    assert name == "__version__" or value.__doc__


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(tartlet.__file__).read_text())
    seen = {
        node.module: {alias.name for alias in node.names}
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "importlib"
    }
    assert seen == PUBLIC


def test_every_public_name_is_in_the_reference() -> None:
    page = Path(__file__).parent.parent / "docs" / "reference" / "library.md"
    shown = {line.removeprefix("::: ").strip() for line in page.read_text().splitlines() if line.startswith("::: ")}
    assert shown == {f"{module}.{name}" for module, names in PUBLIC.items() for name in names} - {
        "tartlet.version.__version__"
    }


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(tartlet, "nonsense")  # noqa: B009 - the point is the look-up at run time


def test_everything_can_be_imported_at_once_by_a_fresh_interpreter() -> None:
    code = "from tartlet import *; import tartlet; print(len([n for n in tartlet.__all__ if n in globals()]))"
    told = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, check=True, text=True)
    assert int(told.stdout) == len(tartlet.__all__)
