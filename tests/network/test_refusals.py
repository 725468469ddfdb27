"""What a filter refuses is counted by destination and written down with the rule that did it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from machines import text_in
from network_lab import GATEWAY, GATEWAY_MAC, VM_ADDRESS, VM_MAC, Lab, laid_out, syn_frame, udp_frame
from raw_frames import ICMP, IPV4, ethernet, ipv4, ping
from tartlet.network.policy.policy import Policy
from tartlet.network.rules.filter import state_of
from tartlet.network.rules.refusals import Refusal, logged, read, recorded

pytestmark = [pytest.mark.anyio, pytest.mark.needs_root]

LINE = json.dumps(
    {"at": "2026-01-02T03:04:05+00:00", "destination": "10.0.0.5", "protocol": "tcp", "port": 443, "packets": 1,
     "rule": "block 10.0.0.0/8"}
)  # fmt: skip


async def written(log: Path) -> list[Refusal]:
    return [one async for one in logged(log, lambda: False)]


def send(lab: Lab, *frames: bytes) -> None:
    lab.places({"": list(frames)})


@pytest.mark.parametrize("direction", ["", "out "], ids=["packets", "flows"])
async def test_refused_destinations_are_told_with_their_rule(direction: str) -> None:
    policy = Policy.parse(None, f"{direction}8.8.0.0/16,{direction}@host:22")
    echo = ethernet(GATEWAY_MAC, VM_MAC[0], IPV4, ipv4(VM_ADDRESS[0], "192.168.0.10", ICMP, ping(b"")))
    async with laid_out(policy, Policy()) as lab:
        (filter_, _) = lab.filters
        assert await filter_.refused() == []
        send(lab, *(3 * [udp_frame("", "8.8.8.8")]), syn_frame("", GATEWAY, 22), syn_frame("", GATEWAY, 23), echo)
        found = {
            (str(one.destination), one.protocol, one.port, one.packets, one.rule) for one in await filter_.refused()
        }
        assert found == {
            ("8.8.8.8", "udp", 4444, 3, f"block {direction}8.8.0.0/16"),
            (GATEWAY, "tcp", 22, 1, f"block {direction}@host:22"),
            ("192.168.0.10", "icmp", None, 1, "default: 192.168.0.0/16 is private"),
        }
        send(lab, udp_frame("", "8.8.8.8"))
        assert [one.packets for one in await filter_.refused() if one.protocol == "udp"] == [4]


async def test_more_destinations_than_are_remembered_are_refused_too() -> None:
    async with laid_out(Policy(), Policy()) as lab:
        frames = {f"{n}": [udp_frame(f"{n}", f"10.0.{n // 250}.{n % 250}")] for n in range(1100)}
        assert set().union(*lab.places(frames).values()) == set()
        assert len(await lab.filters[0].refused()) == 1024
        assert (await lab.filters[0].hits())["refused_packets"] == 1100


async def test_frames_that_are_dropped_are_counted_by_reason() -> None:
    async with laid_out(Policy(), Policy()) as lab:
        foreign = ethernet(GATEWAY_MAC, VM_MAC[1], IPV4, b"")
        spoofed = ethernet(GATEWAY_MAC, VM_MAC[0], IPV4, ipv4("1.2.3.4", "8.8.8.8", ICMP, ping(b"")))
        send(lab, foreign, spoofed, ethernet(GATEWAY_MAC, VM_MAC[0], 0x86DD, bytes(40)), udp_frame("", "10.0.0.1"))
        hits = await lab.filters[0].hits()
        assert {name: count for name, count in hits.items() if count} == {
            "foreign_mac": 1, "foreign_source": 1, "foreign_protocol": 1, "refused_packets": 1,
        }  # fmt: skip
        state = await state_of(lab.filters[0])
        assert (state.allow, state.block, state.revision) == ((), (), None)
        assert (state.refused, state.forged) == (1, 2)
        await lab.filters[0].replace(None)
        assert (await state_of(lab.filters[0])).allow is None


async def test_the_log_gets_each_packet_once_and_the_last_ones_too(tmp_path: Path) -> None:
    log = tmp_path / "refusals.log"
    assert await written(log) == []
    async with laid_out(Policy(), Policy()) as lab:
        async with recorded(lab.filters[0], log):
            send(lab, *(2 * [udp_frame("", "10.0.0.5")]))
            log.touch()
            await text_in(log, "10.0.0.5")
            send(lab, udp_frame("", "10.0.0.5"), syn_frame("", "10.0.0.6", 443))
        found = sorted((one.destination, one.port) for one in await written(log) for _ in range(one.packets))
        assert found == [("10.0.0.5", 4444)] * 3 + [("10.0.0.6", 443)]
        async with recorded(lab.filters[0], None):
            send(lab, udp_frame("", "10.0.0.5"))


async def test_a_log_is_followed_to_its_end_and_starts_with_a_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "refusals.log"
    line = LINE.encode() + b"\n"
    with log.open("wb") as file:
        file.seek(2 << 20)  # given up: a hole
        file.write(b"half a line\n" + line + line[:9])
    going_on = [True, True, True]

    def more_to_come() -> bool:
        if len(going_on) == 2:
            with log.open("ab") as file:
                file.write(line[9:])
        going_on.pop()
        return bool(going_on)

    assert [one.destination async for one in logged(log, more_to_come)] == ["10.0.0.5"] * 2


def test_a_refusal_as_text() -> None:
    assert str(read(LINE)) == "2026-01-02T03:04:05+00:00  tcp 10.0.0.5:443  1 packet  block 10.0.0.0/8"
    assert isinstance(read(LINE), Refusal)
    for wrong in ("", "x", "[]", "{}", '{"at": 1}'):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own too
            read(wrong)
