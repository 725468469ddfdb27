"""The installed privileged process: served by its socket, with three rights, to users who have none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from command import TART
from host_networks import installed, processes, things_left
from namespaces import Namespace
from ordinary_user import NOBODY, SCRIPT
from tap_guest import TapGuest
from tartlet.network.attachment import AttachRequest, NetworkMode
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.status import shared_networks
from vm_lab import until

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root]

HELPER = 65533
RIGHTS = "-all,+net_admin,+net_raw,+net_bind_service"
TESTS = Path(__file__).parent.parent
AS_NOBODY = f"""
import os, sys
sys.path.insert(0, {str(TESTS)!r})
import anyio
from tap_guest import TapGuest
from tartlet.network.attachment import AttachRequest, NetworkMode
from tartlet.network.backend import candidates
from tartlet.network.bridge.bridge import Bridge
from tartlet.network.policy.policy import Policy
from tartlet.network.status import shared_networks

async def main():
    everything = ",".join(f"10.{{n // 256}}.{{n % 256}}.0/24" for n in range(4000)) + ",some.example.org"
    one = AttachRequest(vm="one", mac="7a:65:e4:3f:be:01", mode=NetworkMode.SOFTNET, allow=everything)
    two = AttachRequest(vm="two", mac="7a:65:e4:3f:be:02", mode=NetworkMode.HOST)
    print(os.getuid(), Bridge().lacking(), next(candidates(one)).name)
    async with Bridge().attach(one) as first, Bridge().attach(two) as second:
        for attachment, mac in ((first, one.mac), (second, two.mac)):
            guest = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex(mac.replace(":", "")))
            print(str(guest.leased().address) == attachment.record.address)
        print([vm.name for network in await shared_networks() for vm in network.vms])
        print(len((await first.filter_state()).allow), (await first.filter_state()).refused)
        print("waiting", flush=True)
        sys.stdin.readline()

anyio.run(main)
"""


@pytest.fixture
def folder() -> Generator[Path]:
    """One that others may look into; pytest's are closed."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def served(inside_private_network: Namespace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """The socket of a process that is no root, in the private network."""
    assert inside_private_network.as_root
    runtime = folder / "runtime"
    runtime.mkdir()
    os.chown(runtime, HELPER, HELPER)
    rights = [f"--{which}={RIGHTS}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    words = ["unshare", "--mount", sys.executable, SCRIPT, str(HELPER), *rights, "--"]
    with installed(folder, as_somebody=words, variables={"RUNTIME_DIRECTORY": str(runtime)}) as path:
        monkeypatch.setenv("TART_NET_SOCKET", str(path))
        yield path
    until(lambda: not things_left(), "the network to end")


def asking(number: int, mode: NetworkMode = NetworkMode.NAT) -> AttachRequest:
    return AttachRequest(vm=f"tiny{number}", mac=f"7a:65:e4:3f:be:{number:02x}", mode=mode)


@contextmanager
def nobody(*words: str) -> Generator[subprocess.Popen[str]]:
    """A program of an ordinary user in this network."""
    argv = ["unshare", "--mount", sys.executable, SCRIPT, str(NOBODY), *words]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=-1, text=True) as running:
        yield running
        if running.poll() is None:
            running.kill()


@pytest.mark.usefixtures("served")
async def test_users_without_rights_share_it_and_see_their_own_vms_only() -> None:
    with nobody(sys.executable, "-c", AS_NOBODY) as theirs:
        assert theirs.stdout
        told = [theirs.stdout.readline().strip() for _ in range(6)]
        assert told == [f"{NOBODY} None bridge", "True", "True", "['one', 'two']", "4001 0", "waiting"]
        async with Bridge().attach(asking(3)) as attachment:  # root's
            tap = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex("7a65e43fbe03"))
            assert tap.leased() is not None
            routed, host_only = await shared_networks()
            assert [vm.name for vm in (*routed.vms, *host_only.vms)] == ["one", "tiny3", "two"]
        theirs.communicate("\n")
    until(lambda: "nft" not in processes(), "their places to be given back")


@pytest.mark.usefixtures("served")
async def test_three_rights_are_enough() -> None:
    async with Bridge().attach(asking(1)):
        status = await anyio.Path(f"/proc/{processes()['process']}/status").read_text()
        assert f"CapEff:\t{sum(1 << right for right in (10, 12, 13)):016x}" in status
        assert f"Uid:\t{HELPER}" in status


def test_the_settings_of_the_host_are_roots(inside_private_network: Namespace) -> None:
    assert inside_private_network.as_root
    with nobody(str(TART), "network", "set", "--system", "nat.address", "192.168.77.1") as theirs:
        told = theirs.communicate(timeout=60)[1]
    assert theirs.returncode == 1
    assert "only root may change this host's network" in told
    assert "tart network set --system nat.address 192.168.77.1" in told


ON_DEMAND = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import anyio
from tap_guest import TapGuest
from tartlet.network.attachment import AttachRequest
from tartlet.network.bridge.bridge import Bridge

async def main():
    print(Bridge(on_demand=True).lacking())
    async with Bridge(on_demand=True).attach(AttachRequest(vm="one", mac="7a:65:e4:3f:be:01")) as attachment:
        guest = TapGuest(descriptor=attachment.cables[0].descriptors[0], mac=bytes.fromhex("7a65e43fbe01"))
        print(str(guest.leased().address) == attachment.record.address, flush=True)
        sys.stdin.readline()

anyio.run(main)
"""


def on_demand(network: Namespace, user: int, *allowed: str) -> subprocess.Popen[str]:
    """A user's VM, whose network is started by sudo; `allowed` are lines for sudoers."""
    lines = "".join(f"printf '%s\\n' '{line}' > /etc/sudoers.d/tartlet;" for line in allowed)
    prepared = f'{lines} cd /; exec "$@"'
    layer = ["unshare", "--mount", sys.executable, str(TESTS / "own_system.py"), "/opt", "sh", "-ec", prepared, "sh"]
    words = [*layer, sys.executable, SCRIPT, str(user), sys.executable, "-c", ON_DEMAND]
    return subprocess.Popen(network.words(*words), stdin=-1, stdout=-1, stderr=-1, text=True)


def test_a_user_starts_it_by_sudo_and_it_is_for_nobody_else(inside_private_network: Namespace) -> None:
    program = Path(sys.executable).with_name("tart-net-helper")
    if shutil.which("sudo") is None or not program.exists():
        pytest.skip("needs sudo, and tart-net-helper installed")
    line = f"#{NOBODY} ALL=(root) NOPASSWD: {program} --listen-fd 0"
    with on_demand(inside_private_network, NOBODY, line) as first:
        assert first.stdout
        assert [first.stdout.readline() for _ in range(2)] == ["None\n", "True\n"], first.stderr
        with on_demand(inside_private_network, HELPER) as other:
            told, complaint = other.communicate("\n", timeout=60)
            assert "sudo does not let this user start tart-net-helper without a password" in told
            assert "the host's network is held for another user's VMs" in complaint
        first.communicate("\n", timeout=60)
    until(lambda: not things_left(), "the network to end")
