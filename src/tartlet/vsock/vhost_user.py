"""What QEMU says to whoever carries a device (QEMU, docs/interop/vhost-user.rst), as far as a vsock device needs it."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import cast

from tartlet.vsock.device import Device, Poll
from tartlet.vsock.guest_memory import BadAddress, GuestMemory, Region, mapped
from tartlet.vsock.ring import Addresses, Broken, Ring

_HEADER = struct.Struct("<III")
"""Request, flags, size of what follows."""
_VERSION, _REPLY = 1, 4
_LONGEST, _MOST_FILES = 4096, 16

_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _SET_MEMORY = 1, 2, 3, 5
_SET_SIZE, _SET_ADDRESSES, _SET_BASE, _GET_BASE, _SET_KICK, _SET_CALL, _SET_ERROR = range(8, 15)
_GET_PROTOCOL, _SET_PROTOCOL, _SET_ENABLED, _GET_CONFIG = 15, 16, 18, 24

_FEATURES = 1 << 32 | 1 << 30 | 1 << 28
"""VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_RING_F_INDIRECT_DESC."""
_PROTOCOL = 1 << 9
"""VHOST_USER_PROTOCOL_F_CONFIG."""

_NUMBER = struct.Struct("<Q")
_STATE = struct.Struct("<II")
_ADDRESSES = struct.Struct("<IIQQQQ")
_CONFIG = struct.Struct("<III")
_REGION = struct.Struct("<QQQQ")
_NO_DESCRIPTOR = 1 << 8


class HungUp(Exception):
    """QEMU has ended the conversation."""


class Nonsense(Exception):
    """What QEMU says makes no sense."""


class Front:
    """The conversation with QEMU about a device with two rings."""

    def __init__(self, qemu: socket.socket, device: Device, poll: Poll) -> None:
        self._qemu, self._device, self._poll = qemu, device, poll
        self._rings = (device.to_guest, device.from_guest)
        self._memory = GuestMemory()
        self.kicks: dict[int, Ring] = {}
        """The rings by the descriptors of the guest's bells."""

    def heed(self) -> None:
        """Take the next message. Waits for it. Raises HungUp, Nonsense."""
        request, payload, files = self._received()
        try:
            reply = self._obeyed(request, payload, files)
        except (struct.error, ValueError, IndexError, OSError) as exc:
            raise Nonsense(f"request {request}: {exc}") from exc
        finally:
            for file in files:
                os.close(file)
        if reply is not None:
            self._qemu.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(reply)) + reply)

    def _received(self) -> tuple[int, bytes, list[int]]:
        head, files, _, _ = socket.recv_fds(self._qemu, _HEADER.size, _MOST_FILES)
        if len(head) < _HEADER.size:
            raise HungUp
        request, _, size = cast("tuple[int, int, int]", _HEADER.unpack(head))
        if size > _LONGEST:
            raise Nonsense("a message that is too long")
        payload = self._qemu.recv(size, socket.MSG_WAITALL) if size else b""
        if len(payload) < size:
            raise HungUp
        return request, payload, files

    def _obeyed(self, request: int, payload: bytes, files: list[int]) -> bytes | None:
        """The answer, if there is to be one. Files that are kept are taken out of the list."""
        if request == _GET_FEATURES:
            return _NUMBER.pack(_FEATURES)
        if request == _GET_PROTOCOL:
            return _NUMBER.pack(_PROTOCOL)
        if request == _GET_CONFIG:
            return self._config(payload)
        if request == _GET_BASE:
            return self._stopped(int(_STATE.unpack(payload)[0]))
        orders: Mapping[int, Callable[[bytes, list[int]], None]] = {
            _SET_MEMORY: self._set_memory,
            _SET_SIZE: self._set_size,
            _SET_ADDRESSES: self._set_addresses,
            _SET_BASE: self._set_base,
            _SET_KICK: self._set_kick,
            _SET_CALL: self._set_call,
        }
        if request in orders:
            orders[request](payload, files)
        elif request not in (_SET_FEATURES, _SET_OWNER, _SET_PROTOCOL, _SET_ERROR, _SET_ENABLED):
            raise Nonsense(f"an unknown request {request}")
        return None

    def _config(self, payload: bytes) -> bytes:
        """The device's configuration is the guest's address."""
        start, size, flags = _CONFIG.unpack_from(payload)
        whole = _NUMBER.pack(self._device.guest)
        return _CONFIG.pack(start, size, flags) + whole[start : start + size].ljust(size, b"\0")

    def _set_memory(self, payload: bytes, files: list[int]) -> None:
        count, _ = _STATE.unpack_from(payload)
        regions: list[Region] = []
        for number in range(count):
            guest, size, user, offset = _REGION.unpack_from(payload, _STATE.size + number * _REGION.size)
            regions.append(Region(guest, size, user, mapped(files[number], offset, size)))
        self._memory = GuestMemory(regions)
        for ring in self._rings:
            if ring.runs:
                self._start(ring)

    def _set_size(self, payload: bytes, _: list[int]) -> None:
        index, number = _STATE.unpack(payload)
        self._rings[index].size = number

    def _set_addresses(self, payload: bytes, _: list[int]) -> None:
        index, _, *where, _ = _ADDRESSES.unpack(payload)
        self._rings[index].addresses = Addresses._make(where)

    def _set_base(self, payload: bytes, _: list[int]) -> None:
        index, number = _STATE.unpack(payload)
        if number == 0:  # a halted guest that goes on is told where it was
            self._device.restarted()
        self._rings[index].next = number & 0xFFFF

    def _set_kick(self, payload: bytes, files: list[int]) -> None:
        ring = self._ring(payload)
        self._forget_kick(ring)
        if not self._is_with_descriptor(payload):
            raise Nonsense("a ring without a bell")
        ring.kick = files.pop()
        self.kicks[ring.kick] = ring
        self._poll.register(ring.kick, select.EPOLLIN)
        self._start(ring)

    def _set_call(self, payload: bytes, files: list[int]) -> None:
        ring = self._ring(payload)
        if ring.call >= 0:
            os.close(ring.call)
        ring.call = files.pop() if self._is_with_descriptor(payload) else -1

    def _stopped(self, index: int) -> bytes:
        ring = self._rings[index]
        ring.stop()
        self._forget_kick(ring)
        return _STATE.pack(index, ring.next)

    def _start(self, ring: Ring) -> None:
        """A ring that makes no sense stays as good as absent."""
        try:
            ring.start(self._memory)
        except (Broken, BadAddress):
            ring.stop()

    def _forget_kick(self, ring: Ring) -> None:
        if ring.kick >= 0:
            del self.kicks[ring.kick]
            self._poll.unregister(ring.kick)  # closing it would not: QEMU has it too
            os.close(ring.kick)
            ring.kick = -1

    def _ring(self, payload: bytes) -> Ring:
        return self._rings[int(_NUMBER.unpack(payload)[0]) & 0xFF]

    @staticmethod
    def _is_with_descriptor(payload: bytes) -> bool:
        return not int(_NUMBER.unpack(payload)[0]) & _NO_DESCRIPTOR
