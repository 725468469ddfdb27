"""The QEMU guest agent's client against peers that are late, rude, broken or hostile."""

from __future__ import annotations

import json
import socket
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from scripted_qga import reply_to, scripted_qga
from tartlet.guest.errors import AgentFailed, AgentUnavailable
from tartlet.guest.qga import agent as qga
from tartlet.guest.qga.agent import QemuGuestAgent

pytestmark = pytest.mark.anyio

Request = dict[str, Any]

OK: Request = {"return": {}}
NO_COMMANDS: list[Request] = []


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qga, "_QUIET", 0.5)
    monkeypatch.setattr(qga, "_LONGEST", 2.0)


def opened(sock: socket.socket) -> QemuGuestAgent:
    agent = QemuGuestAgent(sock)
    agent.port_opened()
    return agent


def once(answer: Callable[[Request], bytes], command: str = "guest-ping") -> Callable[[Request], bytes | None]:
    """Answer the first `command` so, everything else as usual."""
    asked: list[Request] = []

    def said(request: Request) -> bytes | None:
        if request["execute"] != command or asked:
            return None
        asked.append(request)
        return answer(request)

    return said


async def test_commands_and_their_values() -> None:
    with scripted_qga() as (sock, _):
        agent = opened(sock)
        await agent.ping()
        info = await agent.info()
        assert info.version == "7.2.22"
        assert info.enabled("guest-exec")
        assert not info.enabled("guest-fstrim")
        status = await agent.ended(await agent.start("sh", ["-c", "cat; echo e >&2; exit 3"], b"\0\xff\n"))
        assert (status.exitcode, status.signal) == (3, None)
        assert (status.out_data, status.err_data) == (b"\0\xff\n", b"e\n")
        assert [interface.name for interface in await agent.interfaces()] == ["lo", "tun0", "eth0"]


async def test_a_port_nobody_has_opened_answers_at_once() -> None:
    with scripted_qga() as (sock, agent):
        with pytest.raises(AgentUnavailable) as caught:
            await QemuGuestAgent(sock).ping()
        assert "qemu-guest-agent" in (caught.value.hint or "")
        assert agent.requests == []


async def test_waiting_for_the_port_ends_with_the_event() -> None:
    with scripted_qga() as (sock, _):
        agent = QemuGuestAgent(sock)
        assert not await agent.wait_open(0.01)
        async with anyio.create_task_group() as tasks:

            async def appear() -> None:
                await anyio.sleep(0.05)
                agent.port_opened()

            tasks.start_soon(appear)
            assert await agent.wait_open(5)


async def test_an_agent_that_goes_away_ends_the_request_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qga, "_QUIET", 60)
    with scripted_qga(once(lambda _: b"")) as (sock, _):
        agent = opened(sock)
        async with anyio.create_task_group() as tasks:

            async def vanish() -> None:
                await anyio.sleep(0.1)
                agent.port_closed()

            tasks.start_soon(vanish)
            with anyio.fail_after(5), pytest.raises(AgentUnavailable, match="gone away"):
                await agent.ping()
        agent.port_opened()
        await agent.ping()


async def test_qemu_closing_the_port_is_told() -> None:
    with scripted_qga() as (sock, _):
        agent = opened(sock)
        await agent.ping()
    with pytest.raises((AgentUnavailable, OSError)):
        await agent.ping()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100_000 + b"\n",
        b"no json at all\n",
        b'{"return": {"cut": \n',
        b"[" * 100_000 + b"\n",
        b'{"id": ' + b"[" * 50_000 + b"\n",
        b'"\xc3\x28"\n',
        b"\0\0\0\0\n",
        b"null\n",
        b"{}\n" * 3,
        b'{"return": 5}\n',
    ],
    ids=["0xff", "text", "truncated", "deep", "deep-id", "utf8", "zeros", "null", "empty", "kind"],
)
async def test_garbage_fails_one_request_and_the_next_one_is_answered(garbage: bytes) -> None:
    with scripted_qga(once(lambda _: garbage)) as (sock, _):
        agent = opened(sock)
        with pytest.raises((AgentFailed, AgentUnavailable)):
            await agent.ping()
        await agent.ping()
        assert (await agent.info()).version == "7.2.22"


async def test_replies_with_other_numbers_are_not_ours() -> None:
    def late(request: Request) -> bytes:
        others = [{"return": {"pid": 1}, "id": number} for number in (0, "x", None, [1], request["id"] + 1)]
        return b"".join(json.dumps(other).encode() + b"\n" for other in others) + reply_to(request, **OK)

    with scripted_qga(once(late)) as (sock, _):
        await opened(sock).ping()


async def test_an_old_agent_that_repeats_no_numbers_is_understood() -> None:
    def old(request: Request) -> bytes | None:
        number = request["arguments"].get("id")
        return b"\xff" + reply_to({}, **{"return": number}) if number else b'{"return": {}}\n'

    with scripted_qga(old) as (sock, _):
        agent = opened(sock)
        await agent.ping()
        await agent.ping()


async def test_a_complaint_about_an_unreadable_request_is_told() -> None:
    complaint = b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n'
    with scripted_qga(once(lambda _: complaint)) as (sock, _), pytest.raises(AgentFailed, match="JSON parse error"):
        await opened(sock).ping()


async def test_a_reply_that_is_too_long_is_an_error_and_takes_no_memory() -> None:
    with scripted_qga(once(lambda _: b" " * (40 << 20) + b"\n")) as (sock, _):
        agent = opened(sock)
        tracemalloc.start()
        try:
            with pytest.raises(AgentFailed, match="longer than 32 MiB"):
                await agent.ping()
            assert tracemalloc.get_traced_memory()[1] < 150 << 20  # 40 of them are the peer's own
        finally:
            tracemalloc.stop()
        await agent.ping()


async def test_a_flood_is_cut_off_and_leaves_the_event_loop_free() -> None:
    flooding = True

    def flood(request: Request) -> bytes | None:
        return b'{"event": 1, "id": 7}\n' * 20_000 if flooding and request["execute"] == "guest-ping" else None

    with scripted_qga(flood) as (sock, peer):
        agent = opened(sock)
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await anyio.sleep(0.01)
                beats += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            with pytest.raises(AgentUnavailable, match="did not answer"):
                await agent.ping()
            tasks.cancel_scope.cancel()
        assert beats > 10
        flooding = False
        await agent.ping()
        assert peer.requests[-1]["execute"] == "guest-ping"


async def test_silence_is_given_up() -> None:
    with scripted_qga(lambda _: b"") as (sock, _):
        begun = time.monotonic()
        with pytest.raises(AgentUnavailable, match="did not answer"):
            await opened(sock).ping()
        assert 0.4 < time.monotonic() - begun < 20


async def test_a_reply_that_drips_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qga, "_LONGEST", 1.0)
    with scripted_qga(once(lambda _: b"")) as (sock, peer):
        agent = opened(sock)
        async with anyio.create_task_group() as tasks:

            async def drip() -> None:
                while True:
                    await anyio.sleep(0.05)
                    peer._sock.send(b" ")

            tasks.start_soon(drip)
            begun = time.monotonic()
            with pytest.raises(AgentUnavailable):
                await agent.ping()
            assert 0.9 < time.monotonic() - begun < 20
            tasks.cancel_scope.cancel()


async def test_a_caller_that_gives_up_leaves_no_reply_behind_for_the_next() -> None:
    def late(request: Request) -> bytes:
        time.sleep(0.2)
        return reply_to(request, **{"return": {"version": "old", "supported_commands": NO_COMMANDS}})

    with scripted_qga(once(late, "guest-info")) as (sock, _):
        agent = opened(sock)
        with anyio.move_on_after(0.05) as scope:
            await agent.info()
        assert scope.cancelled_caught
        assert (await agent.info()).version == "7.2.22"


async def test_requests_are_answered_in_the_order_in_which_they_were_made() -> None:
    order: list[int] = []
    with scripted_qga() as (sock, _):
        agent = opened(sock)

        async def ask(number: int) -> None:
            await agent.ping()
            order.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
    assert order == list(range(20))


async def test_a_refusal_is_shown_without_what_a_terminal_would_obey() -> None:
    def rude(request: Request) -> bytes:
        return reply_to(request, error={"class": "GenericError", "desc": "no\x1b]0;owned\x07\nway\u202e" + "x" * 5000})

    with scripted_qga(once(rude)) as (sock, _):
        with pytest.raises(AgentFailed) as caught:
            await opened(sock).ping()
        text = str(caught.value)
        assert text.startswith("guest-ping: no\\x1b]0;owned\\x07\\nway\\u202e")
        assert text.isprintable()
        assert len(text) < 1200


async def test_the_clock_is_set_by_date_where_the_agent_cannot() -> None:
    def refusing(request: Request) -> bytes | None:
        if request["execute"] == "guest-set-time":
            return reply_to(request, error={"class": "GenericError", "desc": "hwclock failed"})
        if request["execute"] == "guest-exec":
            asked.append(request["arguments"])
            request["arguments"] = {"path": "true"}
        return None

    asked: list[Request] = []
    with scripted_qga(refusing) as (sock, _):
        await opened(sock).set_clock(1_700_000_000_500_000_000)
    assert asked[0]["arg"] == ["-u", "-s", "@1700000000"]
