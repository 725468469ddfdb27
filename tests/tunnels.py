"""An HTTP proxy that lets TLS through (CONNECT, RFC 9110 §9.3.6), on 127.0.0.1."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream


@dataclass
class Tunnel:
    """What a proxy has seen, and how it behaves."""

    leads_to: str
    """Where every connection ends, `host:port`, whatever was asked for."""

    host: str = ""
    password: str = ""
    """What a client has to show, as the value of `Proxy-Authorization`; nothing if empty."""

    asked: list[str] = field(default_factory=list[str])
    """The `host:port` that clients wanted to reach."""

    async def serve(self, client: SocketStream) -> None:
        async with client:
            head = (await BufferedByteReceiveStream(client).receive_until(b"\r\n\r\n", 65536)).decode()
            self.asked.append(head.split()[1])
            if self.password and f"Proxy-Authorization: {self.password}" not in head:
                await client.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            host, _, port = self.leads_to.partition(":")
            async with await anyio.connect_tcp(host, int(port)) as server, anyio.create_task_group() as tasks:
                tasks.start_soon(_copy, server, client)
                await _copy(client, server)
                tasks.cancel_scope.cancel()


async def _copy(source: ByteReceiveStream, target: ByteSendStream) -> None:
    try:
        async for part in source:
            await target.send(part)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # one side hung up, which ends the other


@asynccontextmanager
async def tunnel(leads_to: str) -> AsyncGenerator[Tunnel]:
    """A proxy for the length of the block, all of whose connections lead to the same server."""
    state = Tunnel(leads_to)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        state.host = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, state.serve)
        yield state
        tasks.cancel_scope.cancel()
