"""The control channel: what may be asked, what is answered, and that an error changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from namespaces import Namespace
from tartlet.errors import UserError
from tartlet.network.policy.policy import Policy
from tartlet.network.rules.control import adopted, controlled
from tartlet.network.rules.filter import Filter, filtered
from tartlet.network.rules.nft import kernel_rules
from tartlet.network.rules.plug import Plug

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="needs nft"),
]
PLUG = Plug(
    tap="tartv0",
    bridge="tart0",
    mac="02:00:00:00:00:01",
    address=IPv4Address("192.168.64.11"),
    gateway=IPv4Address("192.168.64.1"),
)
GET = {"jsonrpc": "2.0", "id": 1, "method": "softnet.policy.get"}


class Client:
    """The peer's end."""

    def __init__(self, end: socket.socket, filter_: Filter, isolations: list[bool]) -> None:
        self.end, self.filter, self.isolations = end, filter_, isolations
        self.file = end.makefile("rb")

    async def line(self, sent: bytes) -> dict[str, Any]:
        """The answer to a line."""

        def ask() -> dict[str, Any]:
            self.end.sendall(sent)
            answer: dict[str, Any] = json.loads(self.file.readline())
            return answer

        return await anyio.to_thread.run_sync(ask)

    async def ask(self, **members: object) -> dict[str, Any]:
        return await self.line(json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode() + b"\n")

    async def set(self, allow: list[str], block: list[str], **more: object) -> dict[str, Any]:
        params = {"allow": allow, "block": block, **more}
        return await self.ask(method="softnet.policy.set", params=params)


@asynccontextmanager
async def channel(inside: Namespace, *, can_isolate: bool = True) -> AsyncGenerator[Client]:
    isolations: list[bool] = []

    async def isolate(on: bool) -> None:
        isolations.append(on)
        await anyio.lowlevel.checkpoint()

    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    async with kernel_rules(inside.words()) as rules, filtered(rules, PLUG, Policy.parse("10.0.0.0/8")) as filter_:
        with theirs:
            async with controlled(ours.detach(), filter_, isolate if can_isolate else None):
                client = Client(theirs, filter_, isolations)
                yield client
                client.file.close()


async def test_the_policy_is_read_and_replaced(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        first = {"allow": ["10.0.0.0/8"], "block": [], "ruleCount": 1}
        nothings: list[dict[str, Any]] = [{}, {"params": None}, {"params": {}}]
        for nothing in nothings:
            assert await client.ask(method="softnet.policy.get", **nothing) == {
                "jsonrpc": "2.0",
                "id": 1,
                "result": first,
            }
        answer = await client.set(
            ["10.9.9.9/8", "@host", "10.0.0.0/8", "192.168.64.1/32"], ["1.0.0.0/8", "in 9.0.0.0/8"]
        )
        second = {
            "allow": ["10.0.0.0/8", "192.168.64.1/32", "@host"],
            "block": ["1.0.0.0/8", "in 9.0.0.0/8"],
            "ruleCount": 4,
        }
        assert answer["result"] == second
        assert (await client.ask(id="x" * 256, method="softnet.policy.get"))["id"] == "x" * 256
        assert client.filter.policy == Policy.parse("10.0.0.0/8,@host,192.168.64.1/32", "1.0.0.0/8,in 9.0.0.0/8")
        assert (await client.set([], []))["result"] == {"allow": [], "block": [], "ruleCount": 0}


@pytest.mark.parametrize(
    ("line", "code", "identity"),
    [
        (b"", -32700, None), (b"{", -32700, None), (b"\xff", -32700, None), (b"NaN", -32700, None),
        (b"[" * 100_000, -32700, None), (b'{"id": 1e', -32700, None), (b"9" * 5000, -32700, None),
        (b"[]", -32600, None), (b'"x"', -32600, None), (b"null", -32600, None),
        (b'{"jsonrpc":"2.0","method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":null,"method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.0,"method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":-1,"method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":"' + b"x" * 257 + b'","method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1,"id":1,"method":"softnet.policy.get"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","more":1}', -32600, 7),
        (b'{"jsonrpc":"1.0","id":7,"method":"softnet.policy.get"}', -32600, 7),
        (b'{"id":7,"method":"softnet.policy.get"}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7}', -32600, 7), (b'{"jsonrpc":"2.0","id":7,"method":5}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy"}', -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","params":[]}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.get","params":{"a":1}}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.set"}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"softnet.policy.set","params":[]}', -32602, 7),
    ],
)  # fmt: skip
async def test_bad_requests(private_network: Namespace, line: bytes, code: int, identity: int | None) -> None:
    async with channel(private_network) as client:
        answer = await client.line(line + b"\n")
        assert (answer["id"], answer["error"]["code"], answer["jsonrpc"]) == (identity, code, "2.0")
        assert (await client.ask(method="softnet.policy.get"))["result"]["allow"] == ["10.0.0.0/8"]


async def test_bad_lists_change_nothing(private_network: Namespace) -> None:
    good = {"allow": ["10.0.0.0/8"], "block": []}
    wrong: list[dict[str, Any]] = [
        {"allow": []}, {"block": []}, {**good, "more": 1}, {**good, "allow": "10.0.0.0/8"}, {**good, "allow": None},
        {**good, "block": [1]}, {**good, "allow": ["10.0.0.1"]}, {**good, "block": ["@guest"]},
        {**good, "block": ["github.com"]}, {**good, "allow": ["10.0.0.0/8", ""]}, {**good, "desiredRevision": ""},
        {**good, "desiredRevision": None}, {**good, "desiredRevision": "x" * 257}, {**good, "desiredRevision": 1},
        {"allow": ["1.0.0.0/8"] * 4000, "block": ["2.0.0.0/8"] * 97},
    ]  # fmt: skip
    async with channel(private_network) as client:
        for params in wrong:
            answer = await client.ask(method="softnet.policy.set", params=params)
            assert answer["error"]["code"] == -32602, params
        assert client.filter.policy == Policy.parse("10.0.0.0/8")
        named = await client.set(["1.0.0.0/8", "10.0.0.1"], [])
        assert "allow: element 2 ('10.0.0.1')" in named["error"]["message"]
        full = await client.set([f"10.{n // 256}.{n % 256}.0/24" for n in range(4000)], ["2.0.0.0/8"] * 96)
        assert full["result"]["ruleCount"] == 4001


async def test_revisions(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        first = await client.set(["1.0.0.0/8"], [], desiredRevision="a")
        assert first["result"] == {
            "allow": ["1.0.0.0/8"], "block": [], "ruleCount": 1, "desiredRevision": "a", "bridgeIsolation": True,
        }  # fmt: skip
        assert await client.set(["1.2.3.4/8"], [], desiredRevision="a") == first
        other = await client.set(["2.0.0.0/8"], [], desiredRevision="a")
        assert other["error"]["code"] == -32001
        assert (await client.ask(method="softnet.policy.get"))["result"] == first["result"]
        assert "result" in await client.set(["2.0.0.0/8"], [], desiredRevision="b")


async def test_isolation_is_turned_where_it_can_be(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        for allow in ["0.0.0.0/0"], ["0.0.0.0/0", "1.0.0.0/8"], [], ["in 1.0.0.0/8", "0.0.0.0/0"]:
            assert "result" in await client.set(allow, [])
        assert client.isolations == [False, True]
    async with channel(private_network, can_isolate=False) as client:
        assert (await client.set(["0.0.0.0/0"], []))["error"]["code"] == -32002
        assert client.filter.policy == Policy.parse("10.0.0.0/8")


async def test_a_line_that_is_too_long_is_passed_over(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        long = json.dumps({**GET, "id": "x" * (3 << 20)}).encode()
        assert (await client.line(long + b"\n"))["error"]["code"] == -32700
        padded = json.dumps(GET).encode().ljust(1 << 20)
        assert "result" in await client.line(padded + b"\n")
        assert (await client.line(padded + b" \n"))["error"]["code"] == -32700


async def test_requests_in_one_piece_and_in_many(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        lines = b"".join(json.dumps({**GET, "id": number}).encode() + b"\n" for number in range(500))
        assert (await client.line(lines))["id"] == 0
        rest = await anyio.to_thread.run_sync(lambda: [json.loads(client.file.readline())["id"] for _ in range(499)])
        assert rest == list(range(1, 500))
        for byte in json.dumps(GET).encode():
            client.end.send(bytes([byte]))
            await anyio.lowlevel.checkpoint()
        assert "result" in await client.line(b"\n")


async def test_the_last_policy_stays_when_the_peer_hangs_up(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        await client.set(["1.0.0.0/8"], [])
        client.end.sendall(json.dumps(GET).encode())  # without its end, so never answered
        client.end.shutdown(socket.SHUT_RDWR)
        await anyio.sleep(0.05)
        assert client.filter.policy == Policy.parse("1.0.0.0/8")


async def test_a_peer_that_hangs_up_on_its_answers(private_network: Namespace) -> None:
    async with channel(private_network) as client:
        client.end.sendall((json.dumps(GET).encode() + b"\n") * 2000)
        client.file.close()
        client.end.close()
        await anyio.sleep(0.1)


def test_only_a_connected_unix_stream_can_be_a_channel() -> None:
    pipe_out, pipe_in = os.pipe()
    unix, datagram, inet = socket.socket(socket.AF_UNIX), socket.socketpair(type=socket.SOCK_DGRAM), socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as server, datagram[1]:
        inet.connect(server.getsockname())
        wrong = {
            2: "standard streams", -1: "standard streams", 100_000: "not open", pipe_out: "not a socket",
            unix.detach(): "not connected", datagram[0].detach(): "not a stream", inet.detach(): "not a Unix",
        }  # fmt: skip
        for descriptor, fault in wrong.items():
            with pytest.raises(UserError, match=fault) as refused:
                adopted(descriptor)
            assert refused.value.exit_code == 1
    os.close(pipe_in)
