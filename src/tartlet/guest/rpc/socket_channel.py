"""grpclib's client, made to use a socket that is already connected, and to keep what servers send before they hang up.

Both go through underscore members of grpclib 0.4.9; the tests against the official gRPC cover them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import h2.errors
import h2.events
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol

from tartlet.guest.errors import AgentUnavailable
from tartlet.guest.rpc import wire


class SocketChannel(Channel):
    """A grpclib channel over a socket that is already connected."""

    def __init__(self, sock: socket.socket, config: Configuration) -> None:
        super().__init__(path=wire.SOCKET_NAME, config=config)  # pyright: ignore[reportUnknownMemberType]
        self._sock: socket.socket | None = sock

    async def _create_connection(self) -> H2Protocol:
        if self._sock is None:
            raise AgentUnavailable("the connection to the guest agent was lost")
        sock, self._sock = self._sock, None
        _, protocol = await asyncio.get_running_loop().create_unix_connection(_Protocol.factory(self), sock=sock)
        return protocol

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        super().close()


class _Protocol(H2Protocol):
    """Keeps what has arrived when a server resets a stream that it has ended well.

    Servers do so when the client has not ended its half, as with standard input that was not read to its end; grpclib
    0.4.9 would drop the messages nobody has read yet.
    """

    @classmethod
    def factory(cls, channel: Channel) -> Callable[[], H2Protocol]:
        def make() -> H2Protocol:
            plain = channel._protocol_factory()  # noqa: SLF001 - as the channel itself would make it
            return cls(plain.handler, plain.config, plain.h2_config)

        return make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.processor.processors[h2.events.StreamReset] = self._stream_reset

    def _stream_reset(self, event: h2.events.StreamReset) -> None:
        stream = self.processor.streams.get(event.stream_id)
        if stream is not None and stream.trailers is not None and event.error_code == h2.errors.ErrorCodes.NO_ERROR:
            return
        self.processor.process_stream_reset(event)
