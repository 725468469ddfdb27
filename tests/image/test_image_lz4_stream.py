from __future__ import annotations

import random
import struct
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tartlet.image.format.lz4_stream import (
    BLOCK,
    END,
    ZERO_BLOCK,
    BadStream,
    Decoder,
    encode_blocks,
    encoded_zero_block,
)

HELLO = bytes.fromhex("6276342d0e00000048656c6c6f2c20576f726c64210a62763424")
CROSS_BLOCK = bytes.fromhex(
    "6276342d100000004142434445464748494a4b4c4d4e4f50"
    "627634311100000011000000"
    "1058" + "1100" + "c0595959595959595959595959"
    "62763424"
)


def encode(data: bytes) -> bytes:
    return b"".join(encode_blocks(data)) + END


def decode(stream: bytes, parts: Sequence[int] = ()) -> bytes:
    """The plain data; `parts` are the sizes of the parts in which the stream comes."""
    decoder, at, plain = Decoder(), 0, bytearray()
    for size in (*parts, len(stream)):
        for block in decoder.feed(stream[at : at + size]):
            plain += block
        at += size
    decoder.close()
    return bytes(plain)


def linked(data: bytes, block: int) -> bytes:
    """A stream as Apple's encoder makes it: every block refers back to the 64 KiB before it."""
    out = bytearray()
    for start in range(0, len(data), block):
        plain = data[start : start + block]
        window = data[max(0, start - BLOCK) : start]
        payload = lz4.block.compress(plain, store_size=False, dict=window) if window else None
        payload = payload or lz4.block.compress(plain, store_size=False)
        out += b"bv41" + struct.pack("<II", len(plain), len(payload)) + payload
    return bytes(out) + END


def stored(data: bytes) -> bytes:
    return b"bv4-" + struct.pack("<I", len(data)) + data


def coded(decoded: int, payload: bytes) -> bytes:
    return b"bv41" + struct.pack("<II", decoded, len(payload)) + payload


def disk_like(size: int, seed: int = 1) -> bytes:
    """Bytes that compress like programs do: words again and again, some noise, some zeros."""
    source = random.Random(seed)
    words = [source.randbytes(source.randrange(3, 24)) for _ in range(300)]
    out = bytearray()
    while len(out) < size:
        out += source.choice((source.choice(words), source.randbytes(3), bytes(source.randrange(200))))
    return bytes(out[:size])


def test_apples_own_stream_is_read() -> None:
    assert decode(HELLO) == b"Hello, World!\n"
    assert encode(b"Hello, World!\n") == HELLO


def test_a_block_may_refer_to_the_one_before() -> None:
    assert decode(CROSS_BLOCK) == b"ABCDEFGHIJKLMNOPXABCD" + b"Y" * 12


@pytest.mark.parametrize("block", [BLOCK, 32_768, 1000, 7, 4 * 1024 * 1024])
def test_linked_blocks_of_any_size_are_read(block: int) -> None:
    data = disk_like(min(900_001, block * 3000)) + bytes(3 * BLOCK)
    data = data[: block * 3000]
    stream = linked(data, block)
    assert decode(stream) == data
    assert decode(stream, parts=[1, 3, 9, 13, 70_000]) == data


def test_history_counts_stored_and_small_blocks() -> None:
    data = disk_like(100_000)
    first, second = data[:40_000], data[40_000:]
    payload = lz4.block.compress(second, store_size=False, dict=first)
    parts = [stored(first[at : at + 999]) for at in range(0, len(first), 999)]
    assert decode(b"".join(parts) + coded(len(second), payload) + END) == data


def test_zeros_after_zeros_are_one_object() -> None:
    decoder = Decoder()
    blocks = list(decoder.feed(linked(bytes(BLOCK * 6), BLOCK)))
    assert len(blocks) == 6
    assert all(block is ZERO_BLOCK for block in blocks)


def test_the_same_payload_means_something_else_after_other_data() -> None:
    """What decodes to zeros behind zeros must not be taken for zeros behind text."""
    back = lz4.block.compress(ZERO_BLOCK, store_size=False, dict=ZERO_BLOCK)
    text = b"x" * BLOCK
    stream = stored(ZERO_BLOCK) + coded(BLOCK, back) * 2 + stored(text) + coded(BLOCK, back) + END
    expected = lz4.block.decompress(back, uncompressed_size=BLOCK, dict=text)
    assert decode(stream) == ZERO_BLOCK * 3 + text + expected


@pytest.mark.parametrize("size", [0, 1, 13, 127, 128, 200, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 12_345])
@pytest.mark.parametrize("kind", ["text", "noise", "zeros"])
def test_what_is_written_is_read_back(size: int, kind: str) -> None:
    data = {"text": disk_like(size), "noise": random.Random(2).randbytes(size), "zeros": bytes(size)}[kind]
    stream = encode(data)
    assert decode(stream) == data
    assert stream.endswith(END)
    full, rest = divmod(size, BLOCK)
    assert len(stream) <= full * (BLOCK + 8) + (rest + 8 if rest else 0) + len(END)


def test_written_blocks_stand_alone_and_have_64_kib() -> None:
    data = disk_like(3 * BLOCK + 5000)
    stream, at, plain = encode(data), 0, b""
    sizes: list[int] = []
    while stream[at : at + 4] == b"bv41":
        decoded, encoded = struct.unpack_from("<II", stream, at + 4)
        plain += lz4.block.decompress(stream[at + 12 : at + 12 + encoded], uncompressed_size=decoded)
        sizes.append(decoded)
        at += 12 + encoded
    assert stream[at:] == END
    assert plain == data
    assert sizes == [BLOCK, BLOCK, BLOCK, 5000]


def test_a_zero_block_is_small_and_an_empty_stream_is_its_end_mark() -> None:
    assert len(encoded_zero_block()) == 279
    assert encode(b"") == END
    assert decode(END) == b""


def test_what_follows_the_end_mark_is_ignored() -> None:
    assert decode(HELLO + b"trailing") == b"Hello, World!\n"
    assert decode(HELLO + b"trailing", parts=[26]) == b"Hello, World!\n"


def test_blocks_of_no_bytes_are_read() -> None:
    assert decode(stored(b"") + coded(0, b"") + coded(0, b"\x00") + stored(b"a") + END) == b"a"


@pytest.mark.parametrize(
    ("stream", "reason", "offset"),
    [
        (b"", "cut short", 0),
        (HELLO[:-1], "cut short", 25),
        (HELLO[:-4], "cut short", 22),
        (HELLO[:10], "cut short", 10),
        (HELLO[:22] + b"bv4?", "unknown block type", 22),
        (b"\x04\x22\x4d\x18", "unknown block type", 0),
        (coded(16, b"\x10A\x00\x00\x00") + END, "cannot be decoded", 0),
        (coded(16, b"\x10A\x05\x00\x00") + END, "cannot be decoded", 0),
        (coded(16, b"\xf0\x00AB") + END, "cannot be decoded", 0),
        (coded(5, b"\x40ABCD") + END, "4 bytes instead of 5", 0),
        (coded(3, b"\x40ABCD") + END, "cannot be decoded", 0),
        (coded(5, b"") + END, "cannot be decoded", 0),
        (stored(b"abc") + coded(16, b"\x10A\x05\x00\x00") + END, "cannot be decoded", 11),
        (b"bv41" + struct.pack("<II", 2**31, 10), "too large", 0),
        (b"bv4-" + struct.pack("<I", 2**32 - 1), "too large", 0),
    ],
)
def test_a_damaged_stream_is_refused_at_its_place(stream: bytes, reason: str, offset: int) -> None:
    for parts in ((), [1] * min(len(stream), 40)):
        with pytest.raises(BadStream, match=reason) as refused:
            decode(stream, parts=parts)
        assert refused.value.offset == offset


PIECES = st.lists(
    st.binary(max_size=300)
    | st.integers(1, 3 * BLOCK).map(bytes)
    | st.integers(0, 9).map(lambda seed: disk_like(90_000, seed)),
    max_size=4,
)


@given(PIECES.map(b"".join), st.lists(st.integers(1, 90_000), max_size=8))
@settings(deadline=None, max_examples=60)
def test_any_data_in_any_parts_comes_back(data: bytes, parts: list[int]) -> None:
    assert decode(encode(data), parts) == data
    assert decode(linked(data, BLOCK), parts) == data


@given(st.binary(max_size=400), st.integers(0, 10**6), st.binary(min_size=1, max_size=6))
@settings(deadline=None, max_examples=300)
def test_damage_never_does_more_than_raise(data: bytes, place: int, damage: bytes) -> None:
    stream = bytearray(linked(data, 50))
    at = place % len(stream)
    stream[at : at + len(damage)] = damage
    try:
        plain = decode(bytes(stream))
    except BadStream:
        return
    assert len(plain) <= len(data) + 2**24


def test_memory_stays_bounded_by_one_block() -> None:
    """A few bytes that decode to gigabytes are handed out block by block."""
    decoder = Decoder()
    ones = lz4.block.compress(b"\x01" * BLOCK, store_size=False)
    blocks = decoder.feed(coded(BLOCK, ones) * 20_000)
    tracemalloc.start()
    try:
        for _ in range(100):
            assert next(blocks) == b"\x01" * BLOCK
        assert tracemalloc.get_traced_memory()[1] < 16 * BLOCK
    finally:
        tracemalloc.stop()


def test_coding_lets_other_threads_run() -> None:
    """Both directions give Python's global lock back while they work: nobody else takes it from them here."""
    data = disk_like(4 * 1024 * 1024)
    stream = encode(data)
    works: list[Callable[[], object]] = [lambda: encode(data), lambda: decode(stream)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for work in works:
            has_run = threading.Event()
            other = threading.Timer(0.01, has_run.set)
            other.start()
            deadline = time.monotonic() + 30
            while not has_run.is_set() and time.monotonic() < deadline:
                work()
            assert has_run.is_set()
            other.join()
    finally:
        sys.setswitchinterval(interval)
