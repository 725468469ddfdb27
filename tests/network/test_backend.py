"""Which backend a VM gets, and that an isolation that was asked for is never weakened."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from namespaces import Namespace, entered, namespace
from tartlet.network import backend
from tartlet.network.attachment import (
    Attachment,
    AttachRequest,
    BackendUnusable,
    Lack,
    ModeUnavailable,
    NetworkMode,
)
from tartlet.network.namespace.userns import Userns
from tartlet.network.record import NetworkRecord
from tartlet.network.shared import resolvers, subnet
from tartlet.network.user_mode.passt import Passt
from tartlet.network.user_mode.slirp import Slirp

MAC = "7a:65:e4:3f:be:01"


class Failing:
    """A backend that promises more than it keeps."""

    name = "failing"
    modes = frozenset({NetworkMode.NAT})
    offloads = True

    def lacking(self) -> Lack | None:
        return None

    @asynccontextmanager
    async def attach(self, request: AttachRequest) -> AsyncGenerator[Attachment]:
        if request.vm:
            raise BackendUnusable(self.name, Lack(reason=f"no network for {request.vm}"))
        async with Slirp().attach(request) as attachment:
            yield attachment


def request(mode: NetworkMode = NetworkMode.NAT, keep: NetworkRecord | None = None) -> AttachRequest:
    return AttachRequest(vm="tiny", mac=MAC, mode=mode, keep=keep)


@pytest.mark.parametrize(
    ("mode", "option"), [(NetworkMode.SOFTNET, "--net-softnet"), (NetworkMode.BRIDGED, "--net-bridged")]
)
def test_isolation_that_cannot_be_given_is_an_error_that_tells_what_is_needed(mode: NetworkMode, option: str) -> None:
    with pytest.raises(ModeUnavailable, match=r"it needs (a backend|the right)") as caught:
        backend.choose(request(mode), (Passt(), Slirp()))
    assert option in str(caught.value)
    assert caught.value.exit_code == 1


def test_host_only_is_slirps_restricted_network_where_nothing_better_is_usable() -> None:
    assert backend.choose(request(NetworkMode.HOST), (Passt(), Slirp())).name == "slirp"


@pytest.mark.needs_root
@pytest.mark.usefixtures("inside_private_network")
@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.SOFTNET, NetworkMode.HOST])
def test_the_shared_network_is_the_first_choice(mode: NetworkMode) -> None:
    if lack := Userns().lacking():
        pytest.skip(lack.reason)
    assert backend.choose(request(mode)).name == "userns"


async def attached_by(chosen: tuple[backend.NetworkBackend, ...], wish: AttachRequest) -> Attachment:
    async with backend.attached(wish, chosen) as attachment:
        return attachment


@pytest.mark.anyio
async def test_the_next_backend_takes_over_and_the_user_is_told() -> None:
    attachment = await attached_by((Failing(), Slirp()), request())
    assert attachment.record.backend == "slirp"
    assert attachment.notes[0] == "network backend failing: no network for tiny; slirp is used instead"


@pytest.mark.anyio
async def test_when_all_fail_the_last_reason_is_raised() -> None:
    with pytest.raises(BackendUnusable, match="no network for tiny"):
        await attached_by((Failing(),), request())


@pytest.mark.anyio
async def test_a_resumed_guest_keeps_backend_and_addresses() -> None:
    keep = NetworkRecord(backend="slirp", address="127.64.9.9", guest_address="10.64.7.15")
    attachment = await attached_by((Failing(), Slirp()), request(keep=keep))
    assert attachment.notes[0].startswith("the guest can reach")  # the failing one was not even asked
    assert attachment.record.guest_address == "10.64.7.15"
    assert attachment.record.address == "127.64.9.9"


@pytest.mark.anyio
async def test_a_guest_that_was_saved_with_a_card_of_the_shared_network_is_given_no_other() -> None:
    keep = NetworkRecord(backend="userns", address="127.64.9.9", guest_address="192.168.64.15")
    with pytest.raises(BackendUnusable, match="no network for tiny"):  # slirp would do for a guest that boots
        await attached_by((Failing(), Slirp()), request(keep=keep))
    with pytest.raises(BackendUnusable, match="userns"):
        backend.choose(request(keep=keep), (Passt(), Slirp()))


def test_the_survey_names_every_backend() -> None:
    assert [name for name, _ in backend.survey()] == ["bridge", "userns", "passt", "slirp", "bridged"]
    assert dict(backend.survey())["slirp"] is None


def test_passt_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    lack = Passt().lacking()
    assert lack is not None
    assert "not found" in lack.reason
    assert "apt install passt" in str(lack.hint)


def test_an_old_passt_says_what_it_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "passt"
    program.write_text("#!/bin/sh\necho '--one-off --no-map-gw' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    lack = Passt().lacking()
    assert lack is not None
    assert "has no --fd" in lack.reason


@pytest.mark.needs_root
def test_without_a_default_route_slirp_serves() -> None:
    with namespace() as bare, entered(bare):
        assert "default route" in str(Passt().lacking())
        assert backend.choose(request(), (Passt(), Slirp())).name == "slirp"


@pytest.mark.needs_root
def test_the_subnet_avoids_what_the_host_reaches(inside_private_network: Namespace) -> None:
    assert subnet.choose(subnet.host_routes()).network == IPv4Network("10.0.2.0/24")
    assert inside_private_network.run("ip", "route", "add", "10.0.0.0/14", "via", "192.0.2.1").returncode == 0
    assert inside_private_network.run("ip", "route", "add", "10.64.2.128/25", "via", "192.0.2.1").returncode == 0
    assert IPv4Network("10.64.2.128/25") in subnet.host_routes()
    assert subnet.choose(subnet.host_routes()).network == IPv4Network("10.64.3.0/24")


@pytest.mark.parametrize(
    ("first", "second", "servers"),
    [
        ("nameserver 192.0.2.53\n", "nameserver 192.0.2.54\n", ["192.0.2.53"]),
        ("# x\nnameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.54\n", ["192.0.2.54"]),
        ("nameserver 127.0.0.1\n", None, []),
        ("nameserver fe80::1\nnameserver nonsense\nnameserver\n", None, []),
        (None, None, []),
        (
            "".join(f"nameserver 192.0.2.{last}\n" for last in range(1, 6)),
            None,
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
        ),
    ],
)
def test_a_guest_asks_servers_that_it_can_reach(
    tmp_path: Path, first: str | None, second: str | None, servers: list[str]
) -> None:
    files = tmp_path / "resolv.conf", tmp_path / "behind"
    for file, content in zip(files, (first, second), strict=True):
        if content is not None:
            file.write_text(content)
    assert [str(server) for server in resolvers.reachable_from_guest(files)] == servers
