"""The guest's side of a synchronisation, run there as root; `sync_program` makes it one text for the guest's Python."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from tartlet.share.stage import Stage, staging
from tartlet.share.tree import FOLDER, Entry, Refused, scanned, settle
from tartlet.share.tree_lines import END, entry_from, read_line, read_lines, write_file, write_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, BinaryIO

    Agreed = dict[bytes, tuple[bytes, bytes]]
    """From a path to the host's entry and the guest's; all stay JSON, because nearly all of them only pass through."""

USER = "admin"
_NULL = b"null"


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
        for path in missed:
            write_line(out, [path])
        write_line(out, END)

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
    descriptor = os.open(top, FOLDER)
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
