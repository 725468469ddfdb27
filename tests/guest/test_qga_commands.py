"""What is made of the QEMU guest agent: refusals by its configuration, restarts, addresses."""

from __future__ import annotations

from typing import Any

import pytest

from guest_channels import only
from scripted_qga import MAC, reply_to, scripted_qga
from tartlet.guest.commands import Command
from tartlet.guest.errors import AgentCannot, AgentFailed, AgentUnavailable, escaped
from tartlet.guest.qga.agent import QemuGuestAgent
from tartlet.guest.qga.commands import QgaCommands, first_address
from tartlet.guest.qga.messages import Address, Interface

pytestmark = pytest.mark.anyio

Request = dict[str, Any]


async def test_an_agent_that_may_run_nothing_is_told_apart_from_a_command_that_fails() -> None:
    def forbidding(request: Request) -> bytes | None:
        if request["execute"] == "guest-exec":
            return reply_to(request, error={"class": "CommandNotFound", "desc": "Command guest-exec has been disabled"})
        if request["execute"] == "guest-info":
            commands = [{"name": "guest-exec", "enabled": False}, {"name": "guest-ping", "enabled": True}]
            return reply_to(request, **{"return": {"version": "9.0.1", "supported_commands": commands}})
        return None

    with scripted_qga(forbidding) as (sock, _):
        agent = QemuGuestAgent(sock)
        agent.port_opened()
        with pytest.raises(AgentCannot, match=r"9\.0\.1 of this VM may not run commands") as caught:
            await QgaCommands(agent, MAC).execute(Command(name="true"), None)
        assert "/etc/sysconfig/qemu-ga" in (caught.value.hint or "")


async def test_the_user_is_looked_up_once_for_each_life_of_the_agent() -> None:
    with scripted_qga() as (sock, peer):
        agent = QemuGuestAgent(sock)
        agent.port_opened()
        commands = QgaCommands(agent, MAC)

        def started() -> int:
            return sum(request["execute"] == "guest-exec" for request in peer.requests)

        for expected in (2, 3, 4):
            await commands.execute(Command(name="true"), None)
            assert started() == expected
        agent.port_closed()
        agent.port_opened()
        await commands.execute(Command(name="true"), None)
        assert started() == 6


async def test_an_agent_that_restarts_forgets_its_commands_and_that_is_told() -> None:
    with scripted_qga() as (sock, peer):
        agent = QemuGuestAgent(sock)
        agent.port_opened()
        pid = await agent.start("sleep", ["60"])
        forgotten = peer.running.pop(pid)
        try:
            with pytest.raises(AgentFailed, match="Invalid parameter 'pid'"):
                await agent.ended(pid)
        finally:
            forgotten.process.kill()
            forgotten.process.wait()
            for reader in forgotten.readers:
                reader.join()


async def test_waiting_for_an_agent_has_an_end() -> None:
    with scripted_qga() as (sock, _), only(QemuGuestAgent(sock), MAC) as agents, pytest.raises(AgentUnavailable):
        await agents.chosen(0.05)


def interface(mac: str, *addresses: str) -> Interface:
    found = [Address(text, "ipv6" if ":" in text else "ipv4", 24) for text in addresses]
    return Interface(name="eth0", hardware_address=mac, ip_addresses=found)


@pytest.mark.parametrize(
    ("interfaces", "address"),
    [
        ([], None),
        ([interface(MAC)], None),
        ([interface(MAC, "10.1.2.3")], "10.1.2.3"),
        ([interface(MAC.upper(), "10.1.2.3")], "10.1.2.3"),
        ([interface("52:54:00:00:00:01", "10.9.9.9"), interface(MAC, "10.1.2.3", "10.1.2.4")], "10.1.2.3"),
        ([interface(MAC, "fe80::1", "169.254.1.1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "8.8.8.8")], "8.8.8.8"),
        ([interface(MAC, "999.1.1.1", "\x1b[2J", "10.1.2.3\n")], None),
        ([interface(MAC, "fe80::1"), interface(MAC, "10.1.2.3")], "10.1.2.3"),
    ],
)
async def test_the_address_of_the_vms_own_interface(interfaces: list[Interface], address: str | None) -> None:
    assert first_address(interfaces, MAC) == address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢", "plain ä 漢"),
        ("  two\nlines\t \n", r"two\nlines"),
        ("\x1b]0;t\x07", r"\x1b]0;t\x07"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("a" * 2000, "a" * 1000 + "…"),
    ],
)
async def test_a_guests_words_are_made_harmless(text: str, shown: str) -> None:
    assert escaped(text) == shown
