"""A QEMU guest agent without a guest: it runs commands on this host, or says what a test tells it to say.

It speaks as `qemu-ga` 7.2 does (sync, numbers repeated, output only after the end, each output at most 16 MiB) and
passes the tests that the real one in a real guest passes; then it is there for what a real one will not do on demand.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

MAC = "52:54:00:12:34:56"

_MOST_OUTPUT = 16 << 20

Said = Callable[[dict[str, Any]], bytes | None]
"""From a request to the bytes to answer with; None: what the agent would say."""


@dataclass
class Running:
    """One command that was started."""

    process: subprocess.Popen[bytes]
    outputs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    readers: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def read(self, name: str, pipe: IO[bytes]) -> None:
        with pipe:
            self.outputs[name] = pipe.read()

    def ended(self) -> bool:
        return self.process.poll() is not None and not any(reader.is_alive() for reader in self.readers)


class ScriptedQga:
    """The guest's side of one port."""

    def __init__(self, sock: socket.socket, said: Said) -> None:
        self._sock, self._said = sock, said
        self.running: dict[int, Running] = {}
        self.files: dict[int, IO[bytes]] = {}
        self.requests: list[dict[str, Any]] = []
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with self._sock, self._sock.makefile("rb") as lines:
            try:
                for line in lines:
                    self._answer(line)
            except OSError:
                return

    def _answer(self, line: bytes) -> None:
        prefix = b""
        if line.startswith(b"\xff"):
            line = line.lstrip(b"\xff")
            self._sock.sendall(b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n')
            prefix = b"\xff"
        request = json.loads(line)
        self.requests.append(request)
        said = self._said(request)
        if said is None:
            said = prefix + reply_to(request, **self._reply(request)) if request["execute"] != "guest-shutdown" else b""
        self._sock.sendall(said)

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        arguments = request.get("arguments", {})
        match request["execute"]:
            case "guest-sync-delimited":
                return {"return": arguments["id"]}
            case "guest-ping" | "guest-set-time":
                return {"return": {}}
            case "guest-info":
                names = ("guest-exec", "guest-ping", "guest-file-open")
                commands = [{"name": name, "enabled": True, "success-response": True} for name in names]
                return {"return": {"version": "7.2.22", "supported_commands": commands}}
            case "guest-exec":
                return self._start(arguments)
            case "guest-exec-status":
                return self._status(arguments["pid"])
            case "guest-network-get-interfaces":
                return {"return": INTERFACES}
            case "guest-file-open" | "guest-file-read" | "guest-file-write" | "guest-file-close" as name:
                try:
                    return {"return": self._on_file(name, arguments)}
                except OSError as exc:
                    return {"error": {"class": "GenericError", "desc": f"failed at a file: {exc.strerror}"}}
            case other:
                return {"error": {"class": "CommandNotFound", "desc": f"The command {other} has not been found"}}

    def _on_file(self, name: str, arguments: dict[str, Any]) -> int | dict[str, Any]:
        if name == "guest-file-open":
            handle = len(self.files) + 1000
            self.files[handle] = open(arguments["path"], f"{arguments.get('mode', 'r')}b")  # noqa: SIM115 - closed by its number
            return handle
        file = self.files[arguments["handle"]]
        if name == "guest-file-close":
            file.close()
            return {}
        if name == "guest-file-write":
            data = base64.b64decode(arguments["buf-b64"])
            file.write(data)
            return {"count": len(data), "eof": False}
        data = file.read(arguments.get("count", 4096))
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not data}

    def _start(self, arguments: dict[str, Any]) -> dict[str, Any]:
        given: str | None = arguments.get("input-data")
        try:
            process = subprocess.Popen(
                [arguments["path"], *arguments.get("arg", [])],
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
        except OSError as exc:
            return {"error": {"class": "GenericError", "desc": f"Guest agent command failed, error was '{exc}'"}}
        running = Running(process)
        for name, pipe in (("out", process.stdout), ("err", process.stderr)):
            assert pipe
            running.readers.append(threading.Thread(target=running.read, args=(name, pipe)))
        if process.stdin and given is not None:
            running.readers.append(threading.Thread(target=_write, args=(process.stdin, base64.b64decode(given))))
        for thread in running.readers:
            thread.start()
        self.running[process.pid] = running
        return {"return": {"pid": process.pid}}

    def _status(self, pid: int) -> dict[str, Any]:
        running = self.running.get(pid)
        if running is None:
            return {"error": {"class": "GenericError", "desc": f"Invalid parameter 'pid' {pid}"}}
        if not running.ended():
            return {"return": {"exited": False}}
        del self.running[pid]
        code = running.process.wait()
        told: dict[str, Any] = {"exited": True, **({"exitcode": code} if code >= 0 else {"signal": -code})}
        for name, data in running.outputs.items():
            if data:
                told[f"{name}-data"] = base64.b64encode(data[:_MOST_OUTPUT]).decode()
            if len(data) > _MOST_OUTPUT:
                told[f"{name}-truncated"] = True
        return {"return": told}

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        for running in self.running.values():
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGKILL)
            running.process.wait()
            for reader in running.readers:
                reader.join()


INTERFACES = [
    {
        "name": "lo",
        "hardware-address": "00:00:00:00:00:00",
        "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}],
    },
    {"name": "tun0"},
    {
        "name": "eth0",
        "hardware-address": MAC,
        "ip-addresses": [
            {"ip-address": "fe80::5054:ff:fe12:3456", "ip-address-type": "ipv6", "prefix": 64},
            {"ip-address": "169.254.7.7", "ip-address-type": "ipv4", "prefix": 16},
            {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24},
        ],
    },
]


def as_usual(_: dict[str, Any]) -> bytes | None:
    """Say what the agent would say."""
    return None


def reply_to(request: dict[str, Any], **told: object) -> bytes:
    """A reply's line with the request's number."""
    return json.dumps({**told, **({"id": request["id"]} if "id" in request else {})}).encode() + b"\n"


def _write(pipe: IO[bytes], data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        return


@contextmanager
def scripted_qga(said: Said = as_usual) -> Generator[tuple[socket.socket, ScriptedQga]]:
    """The host's end of a port, and the agent at its other end."""
    ours, theirs = socket.socketpair()
    with ours:
        agent = ScriptedQga(theirs, said)
        agent.thread.start()
        try:
            yield ours, agent
        finally:
            if ours.fileno() >= 0:
                ours.shutdown(socket.SHUT_RDWR)
            agent.thread.join()
            agent.close()
