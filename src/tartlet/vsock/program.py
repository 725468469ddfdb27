"""The process that is one VM's vsock device: `program QEMU SUPERVISOR CID`, two descriptors of connected sockets.

It stands between a guest that may do as it likes and the supervisor, which must neither crash nor wait for it. Over the
second socket come connections to be made, each a port and a descriptor of a stream socket; it ends with either socket.
Needs nothing but Python, so that it starts at once and stays small.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

from tartlet.vsock.device import Device
from tartlet.vsock.vhost_user import Front, HungUp, Nonsense

ORDER = struct.Struct("<I")
"""The guest's port; the descriptor comes with it."""


def main() -> None:
    """Serve until QEMU or the supervisor hangs up; why is said when it is an error."""
    qemu, supervisor = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    try:
        serve(qemu, supervisor, int(sys.argv[3]))
    except HungUp:
        return
    except Nonsense as exc:
        sys.exit(f"vsock device: QEMU said something that makes no sense: {exc}")


def serve(qemu: socket.socket, supervisor: socket.socket, guest: int) -> None:
    """The device with the address `guest` (CID), until the supervisor hangs up. Raises HungUp, Nonsense."""
    with select.epoll() as poll:
        device = Device(guest, poll)
        front = Front(qemu, device, poll)
        poll.register(qemu.fileno(), select.EPOLLIN)
        poll.register(supervisor.fileno(), select.EPOLLIN)
        more = False
        while True:
            for descriptor, events in poll.poll(0 if more else None):
                if descriptor == qemu.fileno():
                    front.heed()
                elif descriptor == supervisor.fileno():
                    if not _obeyed(supervisor, device):
                        return
                elif descriptor in front.kicks:
                    _rung(descriptor)
                elif (stream := device.by_descriptor.get(descriptor)) is not None:
                    device.host_event(stream, events)
            more = device.turn()


def _obeyed(supervisor: socket.socket, device: Device) -> bool:
    """Make the connection that is asked for; False when nobody asks any more."""
    data, files, _, _ = socket.recv_fds(supervisor, ORDER.size, 1)
    if len(data) < ORDER.size or not files:
        return False
    device.open(socket.socket(fileno=files[0]), ORDER.unpack(data)[0])
    return True


def _rung(bell: int) -> None:
    try:
        os.eventfd_read(bell)
    except BlockingIOError:
        return


if __name__ == "__main__":
    main()
