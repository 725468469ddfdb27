"""An agent as guests made for the original have it: agent.proto on vsock port 8080, by the official gRPC.

Runs in a guest, with `grpc`, `google.protobuf` and `agent_pb2` beside it: `python3 vsock_guest_agent.py [SOCKET]`. The
gRPC server itself is at a Unix socket, which tests without a machine use.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import queue
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from tartlet.guest.rpc import agent_pb2 as proto
else:
    import agent_pb2 as proto

log = logging.getLogger(__name__)

Command = proto.ExecRequest.Command
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else f"/tmp/agent-{os.getpid()}.sock"
Said = queue.Queue[tuple[str, bytes]]


def execute(requests: Iterator[proto.ExecRequest], context: grpc.ServicerContext) -> Iterator[proto.ExecResponse]:
    """One Exec call."""
    first = next(requests)
    if first.WhichOneof("type") != "command":
        context.abort(grpc.StatusCode.UNKNOWN, "the first message must be a command")
    try:
        process, ours = started(first.command)
    except OSError as exc:
        context.abort(grpc.StatusCode.UNKNOWN, f"cannot start {first.command.name}: {exc.strerror}")
    context.add_callback(process.kill)
    threading.Thread(target=feed, args=(requests, first.command, process, ours), daemon=True).start()
    said: Said = queue.Queue(16)
    outputs = [(ours, "out")]
    if not first.command.tty:
        assert process.stdout
        assert process.stderr
        outputs = [(process.stdout.fileno(), "out"), (process.stderr.fileno(), "err")]
    for descriptor, kind in outputs:
        threading.Thread(target=read, args=(descriptor, kind, said), daemon=True).start()
    yield from told(said, len(outputs))
    status = process.wait()
    yield proto.ExecResponse(exit=proto.ExecResponse.Exit(code=max(status, -1)))


def told(said: Said, outputs: int) -> Iterator[proto.ExecResponse]:
    """What the command says, until so many outputs have ended."""
    while outputs:
        kind, data = said.get()
        outputs -= not data
        if data and kind == "out":
            yield proto.ExecResponse(standard_output=proto.IOChunk(data=data))
        elif data:
            yield proto.ExecResponse(standard_error=proto.IOChunk(data=data))


def started(asked: Command) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and our end of its terminal (-1: it has none)."""
    words = [asked.name, *asked.args]
    if not asked.tty:
        given = subprocess.PIPE if asked.interactive else subprocess.DEVNULL
        return subprocess.Popen(words, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE), -1
    ours, theirs = pty.openpty()
    resize(ours, asked.terminal_size)
    try:  # by a program, because code between fork and exec does not agree with gRPC's threads
        process = subprocess.Popen(["setsid", "--ctty", *words], stdin=theirs, stdout=theirs, stderr=theirs)
    finally:
        os.close(theirs)
    return process, ours


def feed(requests: Iterator[proto.ExecRequest], asked: Command, process: subprocess.Popen[bytes], ours: int) -> None:
    """Input and sizes, as they come."""
    try:
        for request in requests:
            if request.WhichOneof("type") == "terminal_resize" and asked.tty:
                resize(ours, request.terminal_resize)
            elif request.WhichOneof("type") == "standard_input" and asked.interactive:
                write(request.standard_input.data, process, ours)
    except (grpc.RpcError, OSError, ValueError) as exc:
        log.debug("no more input: %r", exc)


def write(data: bytes, process: subprocess.Popen[bytes], ours: int) -> None:
    """Input for the process; none is its end."""
    if ours >= 0:
        os.write(ours, data or b"\x04")
        return
    assert process.stdin
    if data:
        process.stdin.write(data)
        process.stdin.flush()
    else:
        process.stdin.close()


def read(descriptor: int, kind: str, said: Said) -> None:
    """Output to its end."""
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:
            data = b""
        said.put((kind, data))
        if not data:
            return


def resize(terminal: int, size: proto.TerminalSize) -> None:
    """Set a terminal's size."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.cols, 0, 0))


def resolve_ip(_: proto.ResolveIPRequest, __: grpc.ServicerContext) -> proto.ResolveIPResponse:
    """The first IPv4 address."""
    words = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return proto.ResolveIPResponse(ip=next(word for word in words if "." in word))


def main() -> None:
    """Serve for ever."""
    server = grpc.server(ThreadPoolExecutor(max_workers=64))
    handlers = {
        "Exec": grpc.stream_stream_rpc_method_handler(
            execute, proto.ExecRequest.FromString, proto.ExecResponse.SerializeToString
        ),
        "ResolveIP": grpc.unary_unary_rpc_method_handler(
            resolve_ip, proto.ResolveIPRequest.FromString, proto.ResolveIPResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Agent", handlers)])
    server.add_insecure_port(f"unix:{ADDRESS}")
    server.start()
    with listener() as listening:
        while True:
            threading.Thread(target=join, args=(listening.accept()[0],), daemon=True).start()


def listener() -> socket.socket:
    """Port 8080 of vsock; tried again and again, as the original's agent does where there is no vsock device yet."""
    while True:
        with suppress(OSError), ExitStack() as held:
            sock = held.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
            sock.bind((socket.VMADDR_CID_ANY, 8080))
            sock.listen(64)
            held.pop_all()
            return sock
        time.sleep(1)


def join(guest: socket.socket) -> None:
    """Python's gRPC knows no vsock: copy the bytes."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(ADDRESS)
    with guest, server:
        back = threading.Thread(target=copy, args=(server, guest))
        back.start()
        copy(guest, server)
        back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Bytes to their end."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # the other end is gone, and the server shall know
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
