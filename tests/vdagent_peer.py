"""What spice-vdagent is in a guest, reduced to text on the clipboard. Runs in guests: Python 3.8, nothing else.

    python3 vdagent_peer.py        prints what the host copies, a line each; each line it reads is copied here

The protocol is SPICE's (spice-protocol, vd_agent.h): chunks of messages, all little-endian.
"""

from __future__ import annotations

import glob
import os
import select
import struct
import sys

PORT = "com.redhat.spice.0"
CHUNK, MESSAGE = struct.Struct("<II"), struct.Struct("<IIQI")
CLIPBOARD, CAPABILITIES, GRAB, REQUEST = 4, 6, 7, 8
BY_DEMAND, SELECTION = 5, 6
TEXT = 1
NO_SELECTION = bytes(4)
"""The clipboard proper, where selections are told apart."""


class Peer:
    """The guest's end of the port."""

    def __init__(self, path: str) -> None:
        self.port = os.open(path, os.O_RDWR)
        self.read = b""
        self.copied = b""
        self.send(CAPABILITIES, struct.pack("<II", 1, 1 << BY_DEMAND | 1 << SELECTION))

    def send(self, kind: int, content: bytes) -> None:
        message = MESSAGE.pack(1, kind, 0, len(content)) + content
        os.write(self.port, CHUNK.pack(1, len(message)) + message)

    def copy(self, text: bytes) -> None:
        self.copied = text
        self.send(GRAB, NO_SELECTION + struct.pack("<I", TEXT))

    def hear(self) -> None:
        """Take what has come. Messages to us are small, so each is one chunk."""
        self.read += os.read(self.port, 65536)
        while len(self.read) >= CHUNK.size + MESSAGE.size:
            _, length = CHUNK.unpack_from(self.read)
            if len(self.read) < CHUNK.size + length:
                return
            message, self.read = self.read[CHUNK.size : CHUNK.size + length], self.read[CHUNK.size + length :]
            self.obey(MESSAGE.unpack_from(message)[1], message[MESSAGE.size :])

    def obey(self, kind: int, content: bytes) -> None:
        if kind == GRAB:
            self.send(REQUEST, NO_SELECTION + struct.pack("<I", TEXT))
        elif kind == REQUEST:
            self.send(CLIPBOARD, NO_SELECTION + struct.pack("<I", TEXT) + self.copied)
        elif kind == CLIPBOARD:
            say(content[8:].rstrip(b"\0").decode())


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def port_path() -> str:
    for name in glob.glob("/sys/class/virtio-ports/*/name"):
        with open(name) as file:
            if file.read().strip() == PORT:
                return "/dev/" + name.split("/")[-2]
    raise SystemExit("there is no port " + PORT)


def main() -> None:
    peer = Peer(port_path())
    say("in")
    while True:
        ready, _, _ = select.select([peer.port, 0], [], [])
        if peer.port in ready:
            peer.hear()
        if 0 in ready:
            line = sys.stdin.buffer.readline()
            if not line:
                return
            peer.copy(line.rstrip(b"\n"))


if __name__ == "__main__":
    main()
