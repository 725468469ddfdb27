#!/usr/bin/python3 -I
"""The guest's end of `tart exec`: runs commands for the host over a virtio port. One file, Python 3.8, nothing else.

The port is a byte stream that outlives both its ends, so a session begins with a mark that the host sends and this
agent repeats; whatever came before the mark is forgotten, and commands of an earlier session are killed. After it come
frames: kind (1 byte), channel (4), length (2), CRC-32 of these and the payload (4), all big-endian; then the payload.
A channel is one request with what belongs to it. Neither side sends more on a channel than the other has granted, so a
command that writes faster than somebody reads waits, and no buffer grows.

One thread, one poll(2), no timers: an agent with nothing to do costs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import select
import signal
import socket
import stat
import struct
import sys
import termios
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is not imported: it would double the time to start
    from collections.abc import Callable, Iterator
    from typing import Any

VERSION = "1"
PORT = "org.tart.agent.0"
NAME = "tart-agent"
FILE = "/usr/local/sbin/tart-agent"
"""Where this file is in a guest it was copied into."""
PACKAGED_FILE = "/usr/sbin/tart-agent"
"""Where it is in a guest that has it as a package."""
GROW_ROOT = "lib/tart-agent/grow-root"
"""Where the program is that grows the root, from the parent of this file's folder."""
MACHINE_FILE = "/var/lib/tart-agent/machine"
"""Remembers which machine this system was on."""

MAGIC = b"\0\xfdTart agent 1\r\n"
"""Its first byte is the kind of no frame."""
TOKEN = 8
HEADER = struct.Struct(">BIHI")
LARGEST = 32 << 10
"""Bytes of a payload."""
WINDOW = 256 << 10
"""Bytes, headers included, that may be on their way on a channel; more only after CREDIT."""
LARGEST_REQUEST = 4 << 20
MOST_COMMANDS = 200
"""At once; each takes four descriptors, and a process usually has 1024."""

HELLO, PART, OPEN, INPUT, OUTPUT, ERRORS, CREDIT, RESIZE, END, CANCEL, PING, PONG, LOST = range(1, 14)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_USER = "admin"

NETLINK_KOBJECT_UEVENT = 15

_SMALLEST_READ = 4096
_BACKLOG = 128 << 10
"""Bytes that wait for the port before outputs are left where they are."""
_READS = 16
"""In one go: the kernel gives out a port's bytes by pages."""
_LONGEST_HOLD = 80
"""Seconds the host may keep an agent that shall stop; systemd kills what takes 90."""
_NO_HOST_PAUSE = 1.0
"""Seconds between looks at a port that has no host at its other end: poll(2) cannot wait for one to come."""


def frame(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """One frame."""
    start = struct.pack(">BIH", kind, channel, len(payload))
    return start + struct.pack(">I", zlib.crc32(payload, zlib.crc32(start))) + payload


class Agent:
    """The port and the commands of the session on it."""

    def __init__(self, port: int, grower: RootGrower | None = None) -> None:
        os.set_blocking(port, False)
        self._grower = grower
        self._port = port
        self._read = bytearray()
        self._to_write = bytearray()
        self._in_session = False
        self._to_end = False
        self._parts: dict[int, bytearray] = {}
        self._commands: dict[int, Stream] = {}
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGHUP, self._end_soon)
        signal.signal(signal.SIGALRM, self._leave)
        self._stopping = False

    def serve(self) -> None:
        """Serve the host until the port is gone, or until no command runs after a SIGHUP."""
        while not (self._to_end and self._has_nothing_to_do()):
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            poll.register(self._port, select.POLLIN | (select.POLLOUT if self._to_write else 0))
            waiting: dict[int, Callable[[], None]] = {}
            if self._grower is not None:
                self._grower.go_on()
                poll.register(self._grower.news, select.POLLIN)
                waiting[self._grower.news.fileno()] = self._grower.hear
            for command in self._commands.values():
                for descriptor, mask, act in command.interests(len(self._to_write) < _BACKLOG):
                    poll.register(descriptor, mask)
                    waiting[descriptor] = act
            ready = dict(poll.poll())
            if ready.pop(self._wake, 0):
                os.read(self._wake, 4096)
                self._reap()
            at_port = ready.pop(self._port, 0)
            for descriptor in ready:
                waiting[descriptor]()
            if at_port & ~select.POLLOUT and not self._receive():
                return
            if self._stopping and not self._held():
                self._leave()
            self._close_ended()
            self._write()

    def send(self, kind: int, channel: int, payload: bytes = b"") -> None:
        """Queue a frame."""
        self._to_write += frame(kind, channel, payload)

    def _receive(self) -> bool:
        """Take what has arrived; False when the port itself is gone."""
        for _ in range(_READS):
            try:
                data = os.read(self._port, 64 << 10)
            except BlockingIOError:
                break
            except OSError:
                self._drop()
                return False
            if not data:
                return self._no_host()
            self._read += data
        while self._taken():
            pass
        return True

    def _no_host(self) -> bool:
        """Nobody is at the other end; False when there will never be anybody."""
        self._drop()
        if os.path.exists("/sys/class/virtio-ports") and not _is_socket(self._port):
            time.sleep(_NO_HOST_PAUSE)
            return True
        return False

    def _taken(self) -> bool:
        """Take one frame, or the mark of a session, out of what was read; False when it is not whole yet."""
        read = self._read
        if not self._in_session:
            at = read.find(MAGIC)
            if at < 0:
                del read[: max(0, len(read) - len(MAGIC) + 1)]
                return False
            if len(read) < at + len(MAGIC) + TOKEN:
                return False
            mark = bytes(read[at : at + len(MAGIC) + TOKEN])
            del read[: at + len(mark)]
            self._begin(mark)
            return True
        if len(read) < HEADER.size:
            return False
        kind, channel, length, check = HEADER.unpack_from(read)
        whole = HEADER.size + length
        if not HELLO <= kind <= LOST or length > LARGEST:
            self._lose()
            return True
        if len(read) < whole:
            return False
        payload = bytes(read[HEADER.size : whole])
        if check != zlib.crc32(payload, zlib.crc32(read[: HEADER.size - 4])):
            self._lose()
            return True
        del read[:whole]
        self._obey(kind, channel, payload)
        return True

    def _begin(self, mark: bytes) -> None:
        self._drop()
        self._in_session = True
        self._to_write += mark
        self.send(HELLO, 0, json.dumps({"version": VERSION, "machine": known_machine()}).encode())

    def _lose(self) -> None:
        """What arrives makes no sense: wait for a new mark. The bytes are kept, the mark may be among them."""
        self._drop()
        self.send(LOST, 0)

    def _drop(self) -> None:
        """End the session and its commands."""
        self._in_session = False
        self._to_write.clear()
        self._parts.clear()
        for command in self._commands.values():
            command.abandon()
        self._commands.clear()

    def _obey(self, kind: int, channel: int, payload: bytes) -> None:
        command = self._commands.get(channel)
        if kind == PING:
            self.send(PONG, 0, payload[:TOKEN])
        elif kind in (PART, OPEN):
            request = self._parts.setdefault(channel, bytearray())
            if len(request) <= LARGEST_REQUEST:
                request += payload
            if kind == OPEN:
                self._open(channel, bytes(self._parts.pop(channel)))
        elif command is None:
            return
        elif kind == INPUT:
            command.take(payload)
        elif kind == CREDIT and len(payload) == 4:
            command.credit += struct.unpack(">I", payload)[0]
        elif kind == RESIZE and len(payload) == 4:
            command.resize(*struct.unpack(">HH", payload))
        elif kind == CANCEL:
            command.abandon()
            del self._commands[channel]

    def _open(self, channel: int, told: bytes) -> None:
        answer: dict[str, object] = {"error": "the request is too long"}
        if len(told) <= LARGEST_REQUEST:
            try:
                request = json.loads(told)
                if request["do"] in ("exec", "connect", "hold"):
                    self._commands[channel] = self._made(channel, request)
                    return
                answer = _done(request)
            except (Refused, OSError, ValueError, TypeError, KeyError) as exc:
                answer = {"error": str(exc) or type(exc).__name__}
        self.send(END, channel, json.dumps(answer).encode())

    def _made(self, channel: int, request: dict[str, Any]) -> Stream:
        if len(self._commands) >= MOST_COMMANDS:
            raise Refused("too many commands run at once in the guest")
        if request["do"] == "hold":
            return Hold(self, channel)
        if request["do"] == "connect":
            return Connection(self, channel, request["port"])
        return Command(self, channel, Request(request))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._grower is not None:
                self._grower.ended(pid)
            for command in self._commands.values():
                if command.pid == pid:
                    command.status = status

    def _close_ended(self) -> None:
        for channel, command in list(self._commands.items()):
            told = command.ended()
            if told is not None:
                self.send(END, channel, json.dumps(told).encode())
                command.close()
                del self._commands[channel]

    def _write(self) -> None:
        while self._to_write:
            try:
                written = os.write(self._port, self._to_write[:LARGEST])
            except BlockingIOError:
                return
            except OSError:  # the host or the port has gone; reading tells which
                self._to_write.clear()
                return
            del self._to_write[:written]

    def _has_nothing_to_do(self) -> bool:
        busy = any(not isinstance(command, Hold) for command in self._commands.values())
        return not (busy or self._parts or self._to_write)

    def _end_soon(self, *_: object) -> None:
        """There is a newer agent, or there shall be none; whoever tells may do so by a command of ours."""
        self._to_end = True

    def _held(self) -> bool:
        return any(isinstance(command, Hold) for command in self._commands.values())

    def _terminate(self, *_: object) -> None:
        """Leave, but for a host that wants to do something first: it is told, and lets go when that is done."""
        if self._stopping:
            return
        self._stopping = True
        signal.alarm(_LONGEST_HOLD)
        for channel, command in self._commands.items():
            if isinstance(command, Hold):
                self.send(OUTPUT, channel, b"stopping")
        if not self._held():
            self._leave()

    def _leave(self, *_: object) -> None:
        self._drop()
        sys.exit(0)


class RootGrower:
    """Has the root grown to the end of its disk: at the start, and when the kernel tells that a disk is larger now."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._wanted = os.path.exists(program)
        self._pid = 0
        self.news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT)
        self.news.bind((0, 1))

    def hear(self) -> None:
        """Take one thing that the kernel tells of its devices."""
        try:
            larger = b"RESIZE=1" in self.news.recv(8192).split(b"\0")
        except BlockingIOError:
            return
        except OSError:  # it told more than there was room for
            larger = True
        self._wanted = (self._wanted or larger) and os.path.exists(self._program)

    def go_on(self) -> None:
        """Start the program when it is wanted, one at a time. What it says goes where this agent's errors go."""
        if self._wanted and not self._pid:
            self._wanted = False
            null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
            try:
                self._pid = os.posix_spawn(self._program, [self._program], os.environ, file_actions=[null])
            except OSError as exc:
                sys.stderr.write(f"tart-agent: {self._program}: {exc.strerror}\n")

    def ended(self, pid: int) -> None:
        """A child has ended."""
        if pid == self._pid:
            self._pid = 0


class Refused(Exception):
    """Why a request is not carried out."""


class Request:
    """A command as the host asks for it."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.name: str = told["name"]
        self.args: list[str] = told.get("args", [])
        self.env: dict[str, str] = told.get("env", {})
        self.workdir: str = told.get("workdir", "")
        self.user: str = told.get("user", "")
        self.interactive: bool = told.get("interactive", False)
        self.tty: bool = told.get("tty", False)
        self.detach: bool = told.get("detach", False)
        self.rows, self.columns = (min(int(side), 0xFFFF) for side in told.get("size", (24, 80)))
        if self.detach and (self.tty or self.interactive):
            raise Refused("a command that is detached has neither input nor terminal")


class Stream:
    """Bytes that go both ways for one request."""

    def __init__(self, agent: Agent, channel: int) -> None:
        self._agent, self._channel = agent, channel
        self.credit = WINDOW
        self.pid = -1
        self.status: int | None = None
        self._input = bytearray()
        self._input_ended = False
        self._owed = 0
        self._outputs: dict[int, int] = {}
        """From descriptor to kind."""
        self._in = -1

    def interests(self, room: bool) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """Descriptors to wait for, for what, and what to call then."""
        wanted: dict[int, int] = {}
        if room and self.credit >= _SMALLEST_READ:
            wanted = dict.fromkeys(self._outputs, select.POLLIN)
        if self._input and self._in >= 0:
            wanted[self._in] = wanted.get(self._in, 0) | select.POLLOUT
        for descriptor, mask in wanted.items():
            yield descriptor, mask, _bound(self._act, descriptor, mask)

    def take(self, data: bytes) -> None:
        """Input; its end when empty."""
        self._owed += HEADER.size
        if self._in < 0:
            self._owed += len(data)
        elif data:
            self._input += data
        else:
            self._end_input()
        self._feed()

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal, if there is one."""

    def ended(self) -> dict[str, object] | None:
        """How it ended, once it has and everything that came out is sent."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self.close()

    def close(self) -> None:
        """Give its descriptors back."""
        for descriptor in {*self._outputs, self._in} - {-1}:
            os.close(descriptor)
        self._outputs.clear()
        self._in = -1

    def _act(self, descriptor: int, mask: int) -> None:
        if descriptor == self._in and mask & select.POLLOUT:
            self._feed()
        if descriptor in self._outputs and mask & select.POLLIN:
            self._forward(descriptor)

    def _forward(self, descriptor: int) -> None:
        """Send on what came out."""
        most = min(LARGEST, self.credit - HEADER.size)
        if most <= 0:
            return
        try:
            data = os.read(descriptor, most)
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody holds any more, a connection that was reset
            data = b""
        if data:
            self._send(self._outputs[descriptor], data)
        else:
            self._output_ended(descriptor)

    def _send(self, kind: int, data: bytes) -> None:
        self.credit -= HEADER.size + len(data)
        self._agent.send(kind, self._channel, data)

    def _feed(self) -> None:
        """Hand input on."""
        while self._input and self._in >= 0:
            try:
                written = os.write(self._in, self._input[:LARGEST])
            except BlockingIOError:
                break
            except OSError:  # nobody reads it any more
                self._close_input()
                break
            del self._input[:written]
            self._owed += written
        if self._input_ended and not self._input and self._in >= 0:
            self._close_input()
        if self._owed >= WINDOW // 4 or (self._owed and not self._input):
            self._agent.send(CREDIT, self._channel, struct.pack(">I", self._owed))
            self._owed = 0

    def _end_input(self) -> None:
        self._input_ended = True

    def _close_input(self) -> None:
        self._in = -1
        self._owed += len(self._input)
        self._input.clear()

    def _output_ended(self, descriptor: int) -> None:
        del self._outputs[descriptor]


class Hold(Stream):
    """A host that wants to be told before this agent stops. It ends when the host lets go."""

    def ended(self) -> dict[str, object] | None:
        return None


class Connection(Stream):
    """A TCP connection to a server in the guest, which may be on either loopback address."""

    def __init__(self, agent: Agent, channel: int, port: int) -> None:
        super().__init__(agent, channel)
        self._socket = self._connected(port)
        self._in = self._socket.fileno()
        self._outputs[self._in] = OUTPUT

    @staticmethod
    def _connected(port: int) -> socket.socket:
        """At once, because a loopback answers at once. Raises Refused."""
        reason = ""
        for family, name in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            connection = None
            try:
                connection = socket.socket(family, socket.SOCK_STREAM)
                connection.settimeout(1)  # it waits only while the server's queue is full
                connection.connect((name, port))
                connection.setblocking(False)
            except (OSError, OverflowError) as exc:
                reason = reason or str(getattr(exc, "strerror", None) or exc)
                if connection is not None:
                    connection.close()
            else:
                return connection
        raise Refused(f"port {port} of the guest: {reason}")

    def ended(self) -> dict[str, object] | None:
        return None if self._outputs or self._in >= 0 else {"code": 0}

    def close(self) -> None:
        self._outputs.clear()
        self._in = -1
        self._socket.close()

    def _close_input(self) -> None:
        with contextlib.suppress(OSError):  # the server has closed it altogether
            self._socket.shutdown(socket.SHUT_WR)
        super()._close_input()

    def _output_ended(self, descriptor: int) -> None:
        super()._output_ended(descriptor)
        self._send(OUTPUT, b"")


class Command(Stream):
    """A program that runs for the host, with its pipes or its terminal."""

    def __init__(self, agent: Agent, channel: int, request: Request) -> None:
        super().__init__(agent, channel)
        self._error = b""
        self._tty, self._detach = request.tty, request.detach
        self._started = -1
        """Ends when the program runs, and says why when it does not."""
        self._terminal = -1
        """Our end of a terminal that takes no more input."""
        self.pid = self._start(request)

    def _start(self, request: Request) -> int:
        theirs: list[int] = []
        try:
            stdio = self._made_terminal(request, theirs) if request.tty else self._made_pipes(request, theirs)
            self._started, told = os.pipe()
            theirs.append(told)
            pid = os.fork()
            if pid == 0:
                run(request, stdio, told)
            for descriptor in {*self._outputs, self._in} - {-1}:
                os.set_blocking(descriptor, False)
        except OSError:
            self.close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return pid

    def _made_terminal(self, request: Request, theirs: list[int]) -> tuple[int, int, int]:
        self._in, other = os.openpty()
        theirs.append(other)
        self._outputs[self._in] = OUTPUT
        self.resize(request.rows, request.columns)
        return other, other, other

    def _made_pipes(self, request: Request, theirs: list[int]) -> tuple[int, int, int]:
        if request.interactive:
            stdin, self._in = os.pipe()
        else:
            stdin = os.open(os.devnull, os.O_RDWR)
        theirs.append(stdin)
        if request.detach:
            return stdin, stdin, stdin
        for kind in (OUTPUT, ERRORS):
            ours, other = os.pipe()
            self._outputs[ours] = kind
            theirs.append(other)
        return stdin, theirs[1], theirs[2]

    def interests(self, room: bool) -> Iterator[tuple[int, int, Callable[[], None]]]:
        if self._started >= 0:
            yield self._started, select.POLLIN, self._hear
        yield from super().interests(room)

    def resize(self, rows: int, columns: int) -> None:
        if self._tty and self._in >= 0:
            fcntl.ioctl(self._in, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ended(self) -> dict[str, object] | None:
        if self._started >= 0:
            return None
        if self._error:
            return {"error": self._error.decode(errors="replace")}
        if self._detach:
            return {"code": 0}
        if self._outputs or self.status is None:
            return None
        return {"code": os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else -1}

    def abandon(self) -> None:
        """Kill it and what it started in its own process group."""
        if self.status is None and not self._detach:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has not even begun a group of its own
                os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        for descriptor in {self._started, self._terminal} - {-1}:
            os.close(descriptor)
        self._started = self._terminal = -1
        super().close()

    def _hear(self) -> None:
        piece = os.read(self._started, 4096)
        self._error += piece
        if not piece:
            os.close(self._started)
            self._started = -1

    def _end_input(self) -> None:
        if self._tty:
            self._input += b"\x04"
            self._owed -= 1  # it was not the host that sent this byte
        else:
            self._input_ended = True

    def _close_input(self) -> None:
        if self._tty:
            self._terminal = self._in
        elif self._in >= 0:
            os.close(self._in)
        super()._close_input()

    def _output_ended(self, descriptor: int) -> None:
        super()._output_ended(descriptor)
        if self._tty:  # closed when the command has ended: the hang-up could turn its exit status into a signal
            self._close_input()
        else:
            os.close(descriptor)


def run(request: Request, stdio: tuple[int, int, int], told: int) -> None:
    """In the forked process: become the command, or say why not. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGPIPE,
            signal.SIGXFSZ,
        ):  # Python ignores two, programs would too
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for target, descriptor in enumerate(stdio):
            os.dup2(descriptor, target)
        if request.tty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        variables = _become(request.user)
        if request.tty:
            variables["TERM"] = "xterm-256color"
        variables.update(request.env)
        _enter(request.workdir, variables["HOME"])
        words = [word.encode() for word in (request.name, *request.args)]
        program = found(request.name, variables.get("PATH", PATH))
        os.execve(program, words, {key.encode(): value.encode() for key, value in variables.items()})  # noqa: S606
    except (Refused, ValueError) as exc:
        text = str(exc)
    except OSError as exc:
        text = f"{request.name}: {exc.strerror}"
    except BaseException as exc:  # noqa: BLE001 - whatever it is, this copy of the agent must not go on
        text = repr(exc)
    os.write(told, (text or "it could not be started").encode(errors="replace")[:4096])
    os._exit(127)


def _become(name: str) -> dict[str, str]:
    """Take on a user's identity; the variables that belong to it."""
    root = os.geteuid() == 0
    account = _account(name) if name or not root else _default_account()
    if root:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    elif account.pw_uid != os.geteuid():
        raise Refused("the guest agent does not run as root, so it cannot become " + name)
    os.umask(0o022)
    kept = {key: value for key, value in os.environ.items() if key in ("LANG", "TZ") or key.startswith("LC_")}
    shell = account.pw_shell or "/bin/sh"
    own = {"USER": account.pw_name, "LOGNAME": account.pw_name, "HOME": account.pw_dir, "SHELL": shell}
    return {**kept, **own, "PATH": PATH}


def _account(name: str) -> pwd.struct_passwd:
    try:
        if name.isdigit():
            return pwd.getpwuid(int(name))
        return pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except (KeyError, OverflowError):
        raise Refused("the guest has no user " + name) from None


def _default_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        return pwd.getpwuid(0)


def _enter(folder: str, home: str) -> None:
    """Go to a folder, which may be told from the user's home."""
    try:
        os.chdir(home)
    except OSError:
        os.chdir("/")
    try:
        os.chdir(folder or ".")
    except OSError:
        raise Refused("cannot enter the folder " + folder) from None


def found(name: str, path: str) -> str:
    """The file of a program. Raises Refused."""
    if "/" in name:
        if not os.path.exists(name):
            raise Refused(name + ": no such file")
        if not (os.path.isfile(name) and os.access(name, os.X_OK)):
            raise Refused(name + ": cannot be executed")
        return name
    for folder in path.split(":"):
        program = os.path.join(folder or ".", name)
        if name and os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    raise Refused(f"{name}: not found in {path}")


def _done(request: dict[str, Any]) -> dict[str, object]:
    """The answer to what is asked besides commands. Raises Refused, OSError."""
    if request["do"] == "address":
        return {"address": address(request["mac"])}
    if request["do"] == "clock":
        time.clock_settime_ns(time.CLOCK_REALTIME, request["nanoseconds"])
        return {}
    raise Refused("the guest's agent is too old for this")


def known_machine() -> str:
    """Which machine this system believes to run on; empty when it was never told."""
    try:
        with open(MACHINE_FILE) as file:
            return file.read().strip()
    except OSError:
        return ""


def become(machine: str, name: str, parts: list[str]) -> int:
    """Take this machine's identity on. A system that was on another one is a copy and gets its own of all `parts`."""
    before = known_machine()
    if before and before != machine:
        for part, renew in (("name", _rename), ("id", _renew_id), ("keys", _renew_keys)):
            if part in parts:
                renew(name)
    os.makedirs(os.path.dirname(MACHINE_FILE), exist_ok=True)
    _write(MACHINE_FILE, machine + "\n")
    return 0


def _rename(name: str) -> None:
    before = socket.gethostname()
    _write("/etc/hostname", name + "\n")
    socket.sethostname(name)
    try:
        with open("/etc/hosts") as file:
            lines = file.read().split("\n")
    except OSError:
        return
    # Only the machine's own line; another name for 127.0.0.1 may be somebody's.
    lines = [line.replace(before, name) if line.startswith("127.0.1.1") else line for line in lines]
    _write("/etc/hosts", "\n".join(lines))


def _renew_id(_: str) -> None:
    fresh = os.urandom(16).hex() + "\n"
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        if os.path.isfile(path) and not os.path.islink(path):
            _write(path, fresh)
    if os.path.exists("/var/lib/systemd/random-seed"):
        os.unlink("/var/lib/systemd/random-seed")
    _tell("systemctl", "--no-block", "try-restart", "systemd-journald.service")  # it files by machine-id


def _renew_keys(_: str) -> None:
    folder = "/etc/ssh"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in names:
        if name.startswith("ssh_host_") and name.endswith("_key"):
            kind, path = name[len("ssh_host_") : -len("_key")], os.path.join(folder, name)
            for left in (path + ".new", path + ".new.pub"):
                if os.path.exists(left):
                    os.unlink(left)
            if _tell("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path + ".new") == 0:
                os.replace(path + ".new.pub", path + ".pub")
                os.replace(path + ".new", path)
    for service in ("ssh", "sshd"):
        if _tell("systemctl", "--no-block", "try-restart", service + ".service") == 127:
            _tell("rc-service", "--ifstarted", service, "restart")


def _tell(*words: str) -> int:
    """Run a program of the system; 127 when there is none."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(words[0], words)  # noqa: S606
        finally:
            os._exit(127)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


def _write(path: str, text: str) -> None:
    """Whole or not at all, and on the disk: whoever copies it a moment later shall find it."""
    with open(path + ".new", "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def _nothing(*_: object) -> None:
    """A handler that only lets the signal wake the poll."""


def _bound(act: Callable[[int, int], None], descriptor: int, mask: int) -> Callable[[], None]:
    return lambda: act(descriptor, mask)


def address(mac: str) -> str:
    """The IPv4 address of the interface with this MAC address, or else of the first that has a usable one; or ''."""
    rest = ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in sorted(socket.if_nameindex()):
            try:
                told = fcntl.ioctl(asking, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:  # it has none
                continue
            octets = told[20:24]
            if octets[0] in (0, 127) or octets[0] >= 224 or octets[:2] == b"\xa9\xfe":
                continue
            if _mac_of(name) == mac.lower():
                return socket.inet_ntoa(octets)
            rest = rest or socket.inet_ntoa(octets)
    return rest


def _mac_of(name: str) -> str:
    try:
        with open(f"/sys/class/net/{name}/address") as file:
            return file.read().strip().lower()
    except OSError:
        return ""


def _is_socket(descriptor: int) -> bool:
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


def _port_path() -> str:
    """Where the port is; udev makes the first name, the kernel knows the others."""
    plain = "/dev/virtio-ports/" + PORT
    ports = "/sys/class/virtio-ports"
    if os.path.exists(plain) or not os.path.isdir(ports):
        return plain
    for entry in os.listdir(ports):
        with open(f"{ports}/{entry}/name") as file:
            if file.read().strip() == PORT:
                return "/dev/" + entry
    return plain


def main(words: list[str]) -> int:
    """Serve `--port PATH`, or the inherited descriptor `--descriptor N`, or the port that the VM has.

    `--machine ID NAME PART…` takes on an identity instead.
    """
    if words[:1] == ["--version"]:
        sys.stdout.write(f"tart-agent {VERSION}\n")
        return 0
    if words[:1] == ["--machine"]:
        return become(words[1], words[2], words[3:])
    try:
        if words[:1] == ["--descriptor"]:
            port = int(words[1])
            os.set_inheritable(port, False)
        else:
            port = os.open(words[1] if words[:1] == ["--port"] else _port_path(), os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        sys.stderr.write(f"tart-agent: {exc.filename}: {exc.strerror}\n")
        return 1
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    Agent(port, None if words else RootGrower(os.path.join(prefix, GROW_ROOT))).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
