"""Another machine, as far as a test in a network namespace needs one: it answers on the host's uplink."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from namespaces import UPLINK_ADDRESS

PORT = 9998


@contextmanager
def echo() -> Generator[None]:
    """A server on the host's uplink that answers every datagram with itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((UPLINK_ADDRESS, PORT))

        def answer() -> None:
            while (heard := server.recvfrom(2048))[0]:
                server.sendto(*heard)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", (UPLINK_ADDRESS, PORT))
            thread.join()
