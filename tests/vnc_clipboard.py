"""A VNC client that knows nothing but the clipboard: RFC 6143 and its extension, the extended clipboard.

python vnc_clipboard.py URL        prints what the guest copies, a line each; each line it reads is copied here
"""

from __future__ import annotations

import selectors
import socket
import struct
import subprocess
import sys
import zlib
from urllib.parse import urlsplit

EXTENDED_CLIPBOARD = 0xC0A1E5CE
TEXT = 1
CAPS, REQUEST, NOTIFY, PROVIDE = 1 << 24, 1 << 25, 1 << 27, 1 << 28


def whole(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def answer_to(challenge: bytes, password: str) -> bytes:
    """RFC 6143, 7.2.2; DES is left to openssl."""
    key = password.encode()[:8].ljust(8, b"\0")
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    command = ["openssl", "enc", "-des-ecb", "-nopad", "-K", mirrored.hex(), "-provider", "legacy"]
    command += ["-provider", "default"]
    return subprocess.run(command, input=challenge, capture_output=True, check=True).stdout


class Client:
    """A client that has been let in."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)
        assert whole(self.connection, 12) == b"RFB 003.008\n"
        self.connection.sendall(b"RFB 003.008\n")
        assert 2 in whole(self.connection, whole(self.connection, 1)[0])
        self.connection.sendall(b"\x02")
        self.connection.sendall(answer_to(whole(self.connection, 16), parts.password or ""))
        assert whole(self.connection, 4) == bytes(4)
        self.connection.sendall(b"\x01")
        name_length = struct.unpack(">20xI", whole(self.connection, 24))[0]
        whole(self.connection, name_length)
        self.connection.sendall(struct.pack(">BxHI", 2, 1, EXTENDED_CLIPBOARD))
        self.copied = ""

    def copy(self, text: str) -> None:
        """Offer a text, which the server asks for when somebody wants it."""
        self.copied = text
        self._send(NOTIFY | TEXT)

    def heard(self) -> str | None:
        """Take one message; the text that the guest copied, if it is one."""
        kind = whole(self.connection, 1)[0]
        assert kind == 3, f"a message of the kind {kind}, and nobody asked for pictures"
        (length,) = struct.unpack(">3xi", whole(self.connection, 7))
        content = whole(self.connection, abs(length))
        assert length < 0, "the server knows no extended clipboard"
        flags = int.from_bytes(content[:4], "big")
        if flags & CAPS:
            self._send(CAPS | REQUEST | NOTIFY | PROVIDE | TEXT, struct.pack(">I", 1 << 20))
        elif flags & NOTIFY and flags & TEXT:
            self._send(REQUEST | TEXT)
        elif flags & REQUEST:
            told = self.copied.encode() + b"\0"
            self._send(PROVIDE | TEXT, zlib.compress(struct.pack(">I", len(told)) + told))
        elif flags & PROVIDE:
            plain = zlib.decompressobj().decompress(content[4:])
            return plain[4 : 4 + int.from_bytes(plain[:4], "big")].rstrip(b"\0").decode()
        return None

    def _send(self, flags: int, more: bytes = b"") -> None:
        content = struct.pack(">I", flags) + more
        self.connection.sendall(struct.pack(">B3xi", 6, -len(content)) + content)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(url: str) -> None:
    client = Client(url)
    say("in")
    with selectors.DefaultSelector() as both:
        both.register(client.connection, selectors.EVENT_READ)
        both.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in both.select():
                if key.fileobj is client.connection:
                    if (text := client.heard()) is not None:
                        say(text)
                elif line := sys.stdin.readline():
                    client.copy(line.rstrip("\n"))
                else:
                    return


if __name__ == "__main__":
    main(sys.argv[1])
