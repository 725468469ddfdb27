"""A folder on either side of a synchronisation: what is in it, and how changes are carried out. Also run in the guest.

One file, Python 3.8, nothing else: the guest gets its text with each call. No step follows a symbolic link below the
folder, and what comes from the other side is not believed. New content is staged in the folder first and then renamed
into place, so a full disk changes nothing, and nobody ever sees half a file.

Lines are JSON; names that are no UTF-8 travel as surrogates. After the line of a file comes its content: pieces, each
an offset (8 bytes) and a length (4) in front of the data, so that holes stay holes; one of no length tells the size.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import struct
import sys
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import Any, BinaryIO

    Agreed = dict[bytes, tuple[bytes, bytes]]
    """From a path to the host's entry and the guest's; all stay JSON, because nearly all of them only pass through."""

STAGE = ".tart-sync."
"""What the names of staging folders begin with; never synchronised."""
STATES = "/var/lib/tart-agent/sync"
"""Where a guest remembers what both sides last agreed on."""
USER = "admin"
_NULL = b"null"
END: list[Any] = []
"""The last of several lines."""

_PIECE = struct.Struct(">QI")
_LARGEST = 1 << 20
_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)
"""A part of the way to a path is a file or a link."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(NamedTuple):
    """What has a name. Times are nanoseconds; of folders only the mode counts, of links only where they lead."""

    kind: str
    """`f`, `d` or `l`; all else is left alone."""
    mode: int
    size: int
    mtime: int
    ctime: int
    ino: int
    link: str


class Refused(Exception):
    """What cannot be done, in words for the user."""


def same(one: Entry | None, other: Entry | None) -> bool:
    """Whether one side's entry has stayed what it was. A file that was touched in any way has not."""
    if one is None or other is None or one.kind != other.kind:
        return one is other
    if one.kind == "d":
        return one.mode == other.mode
    return one.link == other.link if one.kind == "l" else one[1:6] == other[1:6]


def looked_at(name: str, parent: int) -> Entry | None:
    """What has this name; None when there is nothing, or nothing that is synchronised."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        return _entry(found, os.readlink(name, dir_fd=parent) if stat.S_ISLNK(found.st_mode) else "")
    except FileNotFoundError:
        return None


def _entry(found: os.stat_result, link: str = "") -> Entry | None:
    mode = found.st_mode & 0o777
    if stat.S_ISDIR(found.st_mode):
        return Entry("d", mode | stat.S_IRWXU, 0, 0, 0, 0, "")
    if stat.S_ISLNK(found.st_mode):
        return Entry("l", 0, 0, 0, 0, 0, link)
    if not stat.S_ISREG(found.st_mode):
        return None
    return Entry("f", mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, "")


def scanned(top: int) -> dict[str, Entry]:
    """Everything in a folder, by its path below it. Raises OSError when a part of it cannot be read."""
    found: dict[str, Entry] = {}
    _scan(top, "", found)
    return found


def _scan(folder: int, prefix: str, found: dict[str, Entry]) -> None:
    with os.scandir(folder) as listing:
        names = [entry.name for entry in listing if not entry.name.startswith(STAGE)]
    for name in names:
        entry = looked_at(name, folder)
        if entry is None:
            continue
        found[prefix + name] = entry
        if entry.kind == "d":
            with contextlib.suppress(FileNotFoundError), opened(folder, [name]) as below:
                _scan(below, prefix + name + "/", found)


@contextlib.contextmanager
def opened(top: int, parts: Iterable[str], *, make: bool = False) -> Generator[int, None, None]:
    """A folder below another, no step of the way a link."""
    held = os.dup(top)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=held)
            below = os.open(part, _FOLDER, dir_fd=held)
            os.close(held)
            held = below
        yield held
    finally:
        os.close(held)


def parted(path: str) -> list[str]:
    """A path's parts. Raises Refused for one that would lead out of its folder, or to where it must not."""
    parts = path.split("/")
    if not _is_name(path) or any(part in ("", ".", "..") or part.startswith(STAGE) for part in parts):
        raise Refused("a path that must not be: " + repr(path))
    return parts


def _is_list(told: object) -> bool:
    return isinstance(told, (list, tuple))


def _is_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def write_line(out: BinaryIO, told: object) -> None:
    """One line of JSON."""
    out.write(json.dumps(told).encode() + b"\n")


def read_line(stream: BinaryIO) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The next line; None at the end. Raises Refused for what is none."""
    line = stream.readline(_LARGEST)
    try:
        return json.loads(line) if line else None
    except (ValueError, RecursionError):
        raise Refused("what the other side says cannot be read") from None


def read_lines(stream: BinaryIO) -> Iterator[list[Any]]:
    """Lines up to END. Raises Refused when there is none, and for lines that are no list."""
    while True:
        told = read_line(stream)
        if told == END:
            return
        if not isinstance(told, list):
            raise Refused("the other side stopped in the middle")
        yield told


def entry_from(told: Any) -> Entry | None:  # noqa: ANN401 - as above
    """An entry of a line. Raises Refused."""
    if told is None:
        return None
    words: list[Any] = list(told) if _is_list(told) else []
    good = len(words) == len(Entry._fields) and words[0] in ("f", "d", "l")
    good = good and all(isinstance(number, int) and abs(number) < 1 << 62 for number in words[1:-1])
    if good and isinstance(words[-1], str) and _is_name(words[-1]):
        return Entry._make(words)
    raise Refused("what the other side says of a file cannot be read")


def write_file(top: int, path: str, out: BinaryIO, words: list[Any]) -> None:
    """A file: a line of these words and its entry, its content, and a line that tells whether it stayed as it was."""
    parts = parted(path)
    with opened(top, parts[:-1]) as parent:
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        before = _entry(os.fstat(file))
        if before is None or before.kind != "f":
            raise FileNotFoundError(errno.ENOENT, "it is a file no more", path)
        write_line(out, [*words, before])
        for offset, length in _extents(file, before.size):
            for start in range(offset, offset + length, _LARGEST):
                data = os.pread(file, min(_LARGEST, offset + length - start), start)
                if data:
                    out.write(_PIECE.pack(start, len(data)))
                    out.write(data)
        out.write(_PIECE.pack(before.size, 0))
        write_line(out, same(before, _entry(os.fstat(file))))
    finally:
        os.close(file)


def _extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: offset and length."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = min(os.lseek(file, start, os.SEEK_HOLE), size)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole to its end
                return
            start, end = end, size
        if start < end:
            yield start, end - start


def skip_content(stream: BinaryIO) -> None:
    """Pass over a content."""
    while _piece(stream):
        pass


def _piece(stream: BinaryIO, file: int | None = None) -> bool:
    offset, length = (int(number) for number in _PIECE.unpack(_read(stream, _PIECE.size)))
    if length > _LARGEST or offset + length >= 1 << 62:
        raise Refused("what the other side sends of a file cannot be read")
    data = memoryview(_read(stream, length))
    if file is not None and not length:
        os.ftruncate(file, offset)
    while file is not None and data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
    return length > 0


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise Refused("the other side stopped in the middle")
    return data


class Stage:
    """New content on its way into a folder."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._forget_dead()
        self._name = STAGE + os.urandom(8).hex()
        os.mkdir(self._name, 0o700, dir_fd=top)
        self._folder = os.open(self._name, _FOLDER, dir_fd=top)
        fcntl.flock(self._folder, fcntl.LOCK_EX)
        self._files: dict[str, str] = {}
        self._modes: dict[str, int] = {}
        found = os.fstat(top)
        self._owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 else None

    def _forget_dead(self) -> None:
        """Remove what killed predecessors left; whoever lives holds a lock."""
        for name in os.listdir(self._top):
            if name.startswith(STAGE):
                with contextlib.suppress(OSError), opened(self._top, [name]) as folder:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _emptied(folder)
                    os.rmdir(name, dir_fd=self._top)

    def take(self, path: str, entry: Entry, stream: BinaryIO) -> None:
        """Take a file's content from a stream."""
        name = str(len(self._files))
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        try:
            while _piece(stream, file):
                pass
            if self._owner:
                os.fchown(file, *self._owner)
            os.fchmod(file, entry.mode & 0o777)
            os.utime(file, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(file)
        self._files[path] = name

    def equals(self, path: str) -> bool:
        """Whether the staged file holds what the one in place does."""
        parts = parted(path)
        with opened(self._top, parts[:-1]) as parent, contextlib.ExitStack() as held:
            old = held.enter_context(_reading(parts[-1], parent))
            return _equal(old, held.enter_context(_reading(self._files[path], self._folder)))

    def place(self, path: str, entry: Entry, expected: Entry | None, *, staged: str = "") -> Entry | None:
        """Make `path` what `entry` tells; its entry then. None, and nothing done, when it is not as expected before.

        A file's content was staged, under the name `staged` when that is another.
        """
        try:
            return self._place(parted(path), path, entry, expected, staged or path)
        except OSError as exc:
            if exc.errno in _NO_FOLDER:
                return None
            raise

    def _place(self, parts: list[str], path: str, entry: Entry, expected: Entry | None, staged: str) -> Entry | None:
        with opened(self._top, parts[:-1], make=True) as parent:
            now = looked_at(parts[-1], parent)
            if not same(now, expected) or not _out_of_the_way(parts[-1], parent, now, entry.kind):
                return None
            if entry.kind == "d":
                if now is None or now.kind != "d":
                    os.mkdir(parts[-1], 0o700, dir_fd=parent)
                    self._give(parts[-1], parent)
                self._modes[path] = entry.mode & 0o777 | stat.S_IRWXU
                return Entry("d", self._modes[path], 0, 0, 0, 0, "")
            name = self._files[staged] if entry.kind == "f" else self._linked(entry.link)
            os.rename(name, parts[-1], src_dir_fd=self._folder, dst_dir_fd=parent)
            return looked_at(parts[-1], parent)

    def _linked(self, target: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("link", dir_fd=self._folder)
        os.symlink(target, "link", dir_fd=self._folder)
        self._give("link", self._folder)
        return "link"

    def _give(self, name: str, parent: int) -> None:
        if self._owner:
            os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)

    def remove(self, path: str, expected: Entry) -> bool:
        """Remove what is at `path`; whether it is gone. What is not as expected, or is a folder not empty, stays."""
        parts = parted(path)
        try:
            with opened(self._top, parts[:-1]) as parent:
                now = looked_at(parts[-1], parent)
                if now is None:
                    return True
                return same(now, expected) and _out_of_the_way(parts[-1], parent, now, "")
        except FileNotFoundError:
            return True
        except OSError as exc:
            if exc.errno in _NO_FOLDER:
                return True
            raise

    def close(self) -> None:
        """Folders get their modes, and the staging folder goes."""
        for path, mode in sorted(self._modes.items(), reverse=True):
            with contextlib.suppress(FileNotFoundError), opened(self._top, parted(path)) as folder:
                os.fchmod(folder, mode)
        _emptied(self._folder)
        os.close(self._folder)
        os.rmdir(self._name, dir_fd=self._top)


@contextlib.contextmanager
def staging(top: int) -> Generator[Stage, None, None]:
    """A stage for the length of the block."""
    stage = Stage(top)
    try:
        yield stage
    finally:
        stage.close()


def _out_of_the_way(name: str, parent: int, now: Entry | None, kind: str) -> bool:
    """Remove what is of another kind; False for a folder that is not empty."""
    if now is None or now.kind == kind:
        return True
    try:
        (os.rmdir if now.kind == "d" else os.unlink)(name, dir_fd=parent)
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _emptied(folder: int) -> None:
    for name in os.listdir(folder):
        os.unlink(name, dir_fd=folder)


def _equal(one: BinaryIO, other: BinaryIO) -> bool:
    while True:
        data = one.read(_LARGEST)
        if data != other.read(_LARGEST):
            return False
        if not data:
            return True


@contextlib.contextmanager
def _reading(name: str, parent: int) -> Generator[BinaryIO, None, None]:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), "rb") as file:
        yield file


def settle(top: int) -> None:
    """Have all of a file system on its medium: before a side says that it has something, that survives a power cut."""
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, AttributeError):  # a small Python, another system
        os.sync()
        return
    if syncfs(top) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def source() -> str:
    """This file, for the guest's Python."""
    with open(__file__, encoding="utf-8") as file:
        return file.read()


# From here on: in the guest, as root.


class Copy:
    """The guest's side of one folder."""

    def __init__(self, top: str, states: str) -> None:
        self._top, self._states = top, states
        self._state = os.path.join(states, top.strip("/").replace("%", "%25").replace("/", "%2F"))

    def tell(self, out: BinaryIO) -> None:
        """Which folder of the host it was made of, what both agreed on, and what is there now."""
        folder, agreed = self._read()
        found: dict[bytes, bytes] = {}
        with contextlib.suppress(FileNotFoundError), _held(self._top) as top:
            settle(top)  # should the power be cut now, this is what is found at the next start
            found = {_text(path): _text(entry) for path, entry in scanned(top).items()}
        write_line(out, folder)
        for path in {**agreed, **found}:
            host, guest = agreed.get(path, (_NULL, _NULL))
            out.write(b"[%s, %s, %s, %s]\n" % (path, host, guest, found.get(path, _NULL)))
        write_line(out, END)

    def send(self, paths: BinaryIO, out: BinaryIO) -> None:
        """The files that are asked for; those that have vanished are left out."""
        with _held(self._top) as top:
            for path in iter(lambda: read_line(paths), None):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    write_file(top, path, out, [path])
        write_line(out, END)

    def obey(self, folder: str, orders: BinaryIO, out: BinaryIO) -> None:
        """Carry out orders, which are all staged before; tell which were not possible."""
        _made(self._top)
        _, agreed = self._read()
        if not agreed:
            self._save(folder, agreed)  # from here on this folder is known to be ours
        with _held(self._top) as top, staging(top) as stage:
            missed = _placed(stage, _staged(stage, orders), agreed)
            settle(top)
        self._save(folder, agreed)
        write_line(out, missed)

    def _read(self) -> tuple[str | None, Agreed]:
        """The host's folder, and what both sides agreed on; None and nothing when they never did."""
        try:
            with open(self._state, "rb") as file:
                folder = read_line(file)
                lines = (line.rstrip(b"\n").split(b"\t") for line in file)
                return str(folder), {path: (host, guest) for path, host, guest in lines}
        except FileNotFoundError:
            return None, {}
        except ValueError:
            raise Refused(self._state + " cannot be read: move it and " + self._top + " away") from None

    def _save(self, folder: str, agreed: Agreed) -> None:
        os.makedirs(self._states, 0o700, exist_ok=True)
        with open(self._state + ".new", "wb") as file:
            write_line(file, folder)
            file.writelines(b"%s\t%s\t%s\n" % (path, host, guest) for path, (host, guest) in agreed.items())
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._state + ".new", self._state)


def _text(told: object) -> bytes:
    """JSON, in which no tab occurs."""
    return json.dumps(told).encode()


@contextlib.contextmanager
def _held(top: str) -> Generator[int, None, None]:
    descriptor = os.open(top, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _staged(stage: Stage, orders: BinaryIO) -> list[list[Any]]:
    """The orders, once all content is here. What changed while the host read it waits for the next time."""
    told: list[list[Any]] = []
    for order in read_lines(orders):
        if order[0] == "put" and order[3][0] == "f":
            stage.take(order[1], Entry(*order[3]), orders)
            if not read_line(orders):
                continue
        told.append(order)
    return told


def _placed(stage: Stage, told: list[Any], agreed: Agreed) -> list[str]:
    missed: list[str] = []
    for _, path, expected in sorted((order for order in told if order[0] == "delete"), key=_path, reverse=True):
        if stage.remove(path, Entry(*expected)):
            agreed.pop(_text(path), None)
        else:
            missed.append(path)
    for _, path, expected, entry in sorted((order for order in told if order[0] == "put"), key=_path):
        placed = stage.place(path, Entry(*entry), entry_from(expected))
        if placed is None:
            missed.append(path)
        else:
            agreed[_text(path)] = _text(entry), _text(placed)
    for _, path, host, guest in (order for order in told if order[0] == "agree"):
        agreed[_text(path)] = _text(host), _text(guest)
        if host is None and guest is None:
            del agreed[_text(path)]
    return missed


def _path(order: list[Any]) -> str:
    return str(order[1])


def _made(top: str) -> None:
    """The folder, which belongs to the guest's user."""
    import pwd

    if os.path.isdir(top):
        return
    os.makedirs(top)
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    ordinary = [entry for entry in users.values() if entry.pw_uid == 1000]
    for user in [users[USER]] if USER in users else ordinary:
        os.chown(top, user.pw_uid, user.pw_gid)


def main(words: list[str]) -> int:
    """`STATES TOP` and one of `tell`, `send`, `obey FOLDER`."""
    orders, out = sys.stdin.buffer, sys.stdout.buffer
    copy, what = Copy(words[1], words[0]), words[2]
    try:
        if what == "tell":
            copy.tell(out)
        elif what == "send":
            copy.send(orders, out)
        else:
            copy.obey(words[3], orders, out)
        out.flush()
    except Refused as exc:
        sys.stderr.write(str(exc) + "\n")
        return 1
    except OSError as exc:
        named = ": ".join(str(part) for part in (exc.filename, exc.strerror) if part)
        sys.stderr.write(named + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
