"""Logs that stay small while somebody appends to them."""

from __future__ import annotations

import os
from pathlib import Path

from tartlet.host.bounded_log import first_byte, shorten

MIB = 1 << 20


def test_a_long_log_keeps_its_end_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a" * 9 * MIB + b"the end")
    with log.open("ab") as writer:
        assert shorten(log, 2 * MIB)
        writer.write(b", and more")
    size = log.stat().st_size
    assert size == 9 * MIB + 17
    assert log.stat().st_blocks * 512 <= 4 * MIB
    with log.open("rb") as reader:
        start = first_byte(reader.fileno())
        reader.seek(start)
        kept = reader.read()
    assert start == 7 * MIB
    assert kept == b"a" * 2 * MIB + b"the end, and more"


def test_a_short_log_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 3 * MIB)
    assert not shorten(log, 2 * MIB)
    assert log.read_bytes() == b"x" * 3 * MIB


def test_an_empty_log_begins_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    descriptor = os.open(log, os.O_RDONLY)
    try:
        assert first_byte(descriptor) == 0
    finally:
        os.close(descriptor)
