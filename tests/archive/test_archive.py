"""Archives: what is written is read again, by others too, and what is hostile is refused without harm."""

from __future__ import annotations

import io
import lzma
import os
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lzfse
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tartlet.archive import container
from tartlet.archive.codecs import Decode, decoder, encoded
from tartlet.archive.container import BLOCK, Chunk, Zeros, read, written
from tartlet.archive.entries import header_length, made, parsed
from tartlet.archive.errors import BadArchive
from tartlet.archive.unpack import StackedArchive, unpack
from tartlet.archive.write import InMemory, write_archive
from tartlet.errors import UserError
from tartlet.image.format.source import raw_disk

WANTED = {"config.json": 1000, "disk.img": 1 << 40, "nvram.bin": 1000}
NOISE = random.Random(5).randbytes(BLOCK + 12345)
TEXT = (b"line %d of a text that can be compressed\n" * 1000)[:30000]


def field(key: str, form: str, value: bytes) -> bytes:
    return key.encode() + form.encode() + value


def entry(kind: str, path: bytes, content: bytes | None = None, *more: bytes, magic: bytes = b"AA01") -> bytes:
    """An entry as others write it: other fields in another order, the content in the middle of them."""
    fields = [
        field("TYP", "1", kind.encode()),
        field("PAT", "P", struct.pack("<H", len(path)) + path),
        *([] if content is None else [field("DAT", "B", struct.pack("<I", len(content)))]),
        field("UID", "4", struct.pack("<I", 501)),
        field("FLG", "1", b"\0"),
        field("MTM", "S", struct.pack("<Q", 1_700_000_000)),
        field("BTM", "T", struct.pack("<QI", 1_700_000_000, 7)),
        *more,
    ]
    body = b"".join(fields)
    return magic + struct.pack("<H", 6 + len(body)) + body + (content or b"")


def boxed(stream: bytes, letter: str = "e", block: int = 1 << 16) -> bytes:
    """A stream in a container, made by other hands than the program's."""
    out = [b"pbz" + letter.encode() + struct.pack(">Q", block)]
    for at in range(0, len(stream), block):
        plain = stream[at : at + block]
        stored = {"e": lzfse.compress, "x": lzma.compress, "z": zlib.compress}[letter](plain)
        if len(stored) >= len(plain):
            stored = plain
        out.append(struct.pack(">QQ", len(plain), len(stored)) + stored)
    return b"".join(out)


def unpacked(data: bytes, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    found = unpack(io.BytesIO(data), folder, WANTED)
    assert found == set(os.listdir(folder))
    return {name: (folder / name).read_bytes() for name in found}


VM = (
    entry("D", b"") + entry("F", b"config.json", b"{}") + entry("F", b"disk.img", TEXT) + entry("F", b"nvram.bin", b"n")
)


def test_the_header_of_a_real_archive_is_understood() -> None:
    header = bytes.fromhex(
        "4141303146005459503144504154500000554944310047494431504d4f4432ed01"
        "464c473100 4d544d54bdad6166000000006376910c 43544d54a6a4616600000000d4ba2e03"
    )
    assert header_length(header[:6]) == len(header) == 70
    told = parsed(header[6:])
    assert (told.kind, told.path, told.blobs) == ("D", b"", ())
    ours = made("D", b"", mode=0o755, moment=1717677501)
    assert len(ours) == 70
    assert ours[:33] == header[:26] + b"\0" + header[27:33]  # our files belong to group 0


@pytest.mark.parametrize("size", [0, 1, 255, 65535, 65536, (1 << 32) - 1, 1 << 32, 1 << 62])
def test_a_header_tells_sizes_of_any_width(size: int) -> None:
    header = made("F", b"disk.img", mode=0o644, moment=0, size=size)
    assert header_length(header[:6]) == len(header)
    told = parsed(header[6:])
    assert (told.kind, told.path, told.blobs) == ("F", b"disk.img", (("DAT", size),))


@pytest.mark.parametrize("letter", ["e", "x", "z"])
@pytest.mark.parametrize("block", [1000, 1 << 16, 1 << 22])
def test_archives_of_others_are_read(tmp_path: Path, letter: str, block: int) -> None:
    assert unpacked(boxed(VM, letter, block), tmp_path / "vm") == {
        "config.json": b"{}",
        "disk.img": TEXT,
        "nvram.bin": b"n",
    }


def test_streams_without_a_container_and_of_old_programs_are_read(tmp_path: Path) -> None:
    assert unpacked(VM, tmp_path / "plain")["disk.img"] == TEXT
    assert unpacked(VM.replace(b"AA01", b"YAA1"), tmp_path / "old")["disk.img"] == TEXT


def test_a_container_holds_what_a_reference_decoder_reads() -> None:
    parts = list[bytes]()
    with written(parts.append) as stream:
        stream.add(TEXT)
        stream.add(Zeros(3 * BLOCK + 5))
        stream.add(NOISE)
    data, at, plain = b"".join(parts), 12, list[bytes]()
    assert data[:12] == b"pbze" + struct.pack(">Q", 0x400000)
    while at < len(data):
        size, stored = struct.unpack_from(">QQ", data, at)
        payload = data[at + 16 : at + 16 + stored]
        plain.append(payload if size == stored else lzfse.decompress(payload))
        assert len(plain[-1]) == size
        at += 16 + stored
    assert [len(block) for block in plain[:-1]] == [BLOCK] * (len(plain) - 1)
    assert b"".join(plain) == TEXT + bytes(3 * BLOCK + 5) + NOISE


chunks = st.lists(
    st.one_of(
        st.integers(0, 3 * BLOCK).map(Zeros),
        st.tuples(st.integers(0, 100), st.integers(0, BLOCK + 100)).map(lambda cut: NOISE[cut[0] : cut[1]]),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=15)
@given(chunks=chunks)
def test_any_stream_comes_back(chunks: list[Chunk]) -> None:
    parts = list[bytes]()
    with written(parts.append) as stream:
        for chunk in chunks:
            stream.add(chunk)
    with read(io.BytesIO(b"".join(parts))) as back:
        again = b"".join(part if isinstance(part, bytes) else bytes(part.size) for part in back)
    assert again == b"".join(part if isinstance(part, bytes) else bytes(part.size) for part in chunks)


def test_holes_stay_holes_both_ways(tmp_path: Path) -> None:
    size = (1 << 32) + 512
    with (tmp_path / "disk").open("wb") as disk:
        disk.write(b"start")
        disk.seek(1 << 31)
        disk.write(NOISE)
        disk.truncate(size)
    with raw_disk(tmp_path / "disk") as source, (tmp_path / "vm.tvm").open("wb") as archive:
        write_archive(archive.write, [("config.json", InMemory(b"{}")), ("disk.img", source)])
    assert os.path.getsize(tmp_path / "vm.tvm") < 2 * len(NOISE)
    with (tmp_path / "vm.tvm").open("rb") as archive:
        assert unpack(archive, tmp_path, WANTED) == {"config.json", "disk.img"}
    found = os.stat(tmp_path / "disk.img")
    assert found.st_size == size
    assert found.st_blocks * 512 < len(NOISE) + 256 * 1024
    with (tmp_path / "disk.img").open("rb") as disk:
        assert disk.read(8) == b"start\0\0\0"
        disk.seek(1 << 31)
        assert disk.read(len(NOISE) + 9) == NOISE + bytes(9)


def test_what_is_not_wanted_is_passed_over(tmp_path: Path) -> None:
    extra = field("XAT", "B", struct.pack("<I", 5))
    socket = entry("S", b"control.sock")
    stream = entry("F", b"manifest.json", TEXT) + entry("D", b"sub") + entry("F", b"sub/config.json", b"no") + socket
    stream += entry("F", b"config.json", b"{}", extra) + b"attrs" + entry("F", b"nvram.bin", b"n")
    assert unpacked(boxed(stream), tmp_path / "vm") == {"config.json": b"{}", "nvram.bin": b"n"}


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (entry("F", b"../config.json", b"x"), "lead elsewhere"),
        (entry("F", b"/etc/passwd", b"x"), "lead elsewhere"),
        (entry("F", b"a/../../config.json", b"x"), "lead elsewhere"),
        (entry("F", b"config.json\0", b"x"), "lead elsewhere"),
        (entry("L", b"disk.img", None, field("LNK", "P", b"\x0b\0/etc/shadow")), "neither a file nor a folder"),
        (entry("B", b"disk.img"), "neither a file nor a folder"),
        (entry("C", b"nvram.bin"), "neither a file nor a folder"),
        (entry("P", b"nvram.bin"), "neither a file nor a folder"),
        (entry("F", b"config.json", b"{}") * 2, "twice"),
        (entry("F", b"config.json", bytes(1001)), "1000 at most"),
        (b"AA01\x05\0", "no entry"),
        (b"AA01\x08\0ab", "makes no sense"),
        (entry("F", b"config.json", b"{}") + b"rubbish", "no entry"),
        (entry("F", b"config.json", b"{}")[:-1], "in the middle"),
        (entry("F", b"config.json", b"{}")[:20], "in the middle"),
        (b"AA01" + struct.pack("<H", 14) + b"TYPZ\0\0\0\0", "makes no sense"),
        (b"AA01" + struct.pack("<H", 12) + b"PATP\xff\xff", "makes no sense"),
    ],
)
def test_hostile_entries_are_refused(tmp_path: Path, stream: bytes, why: str) -> None:
    outside = set(os.listdir(tmp_path))
    with pytest.raises(BadArchive, match=why):
        unpacked(boxed(stream), tmp_path / "vm")
    assert set(os.listdir(tmp_path)) == outside | {"vm"}
    assert not any(path.is_symlink() for path in (tmp_path / "vm").iterdir())


@pytest.mark.parametrize("path", [b"overlay.asif", b"content/sha256/00", b"content"])
def test_stacked_disks_are_refused_at_their_first_sign(tmp_path: Path, path: bytes) -> None:
    with pytest.raises(StackedArchive, match="stacked disk"):
        unpacked(boxed(entry("F", path, b"x")), tmp_path / "vm")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not begin"),
        (b"PK\x03\x04", "does not begin"),
        (b"pbze", "first bytes"),
        (b"pbz4" + struct.pack(">Q", BLOCK), "compression '4'"),
        (b"pbzb" + struct.pack(">Q", BLOCK), "compression 'b'"),
        (b"pbze" + struct.pack(">Q", 1 << 40), "blocks have"),
        (b"pbze" + struct.pack(">Q", 0), "blocks have"),
        (b"pbze" + struct.pack(">QQQ", BLOCK, 1 << 50, 10), "claims"),
        (b"pbze" + struct.pack(">QQQ", BLOCK, 10, 1 << 50), "claims"),
        (b"pbze" + struct.pack(">QQQ", BLOCK, 0, 0), "claims"),
        (b"pbze" + struct.pack(">QQQ", BLOCK, 10, 5) + b"abc", "middle of a block"),
        (b"pbze" + struct.pack(">QQ", BLOCK, 10), "middle of a block"),
        (b"pbze" + struct.pack(">QQQ", BLOCK, 10, 5) + b"abcde", "damaged"),
        (b"pbzx" + struct.pack(">QQQ", BLOCK, 10, 5) + b"abcde", "damaged"),
        (b"pbzz" + struct.pack(">QQQ", BLOCK, 10, 5) + b"abcde", "damaged"),
    ],
)
def test_hostile_containers_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(BadArchive, match=why):
        unpacked(data, tmp_path / "vm")


@pytest.mark.parametrize("letter", ["e", "x", "z"])
def test_a_block_that_is_more_than_it_claims_makes_no_more(letter: str) -> None:
    """A bomb: 64 MiB in a few KiB."""
    code = {"e": lzfse.compress, "x": lzma.compress, "z": zlib.compress}[letter]
    bomb = code(bytes(64 << 20))
    assert len(bomb) < 200_000
    assert len(decoder(ord(letter))(bomb, 1000)) <= 1000
    assert decoder(ord(letter))(bomb, 64 << 20) == bytes(64 << 20)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_broken_archives_raise_nothing_but_what_is_foreseen(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = boxed(VM, data.draw(st.sampled_from("exz")), 1 << 12) if data.draw(st.booleans()) else VM
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("broken")
    with suppress(UserError):
        unpack(io.BytesIO(bytes(broken)), folder, WANTED)
    assert set(os.listdir(folder)) <= set(WANTED)


def test_a_full_disk_or_broken_pipe_ends_writing_at_once() -> None:
    calls = 0

    def write(_: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(28, "No space left on device")

    def work() -> None:
        with written(write) as stream:
            for _ in range(40):
                stream.add(NOISE)

    with pytest.raises(OSError, match="No space"):
        work()
    assert calls == 3


def test_zero_blocks_of_another_encoder_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = decoder(ord("e"))

    def counted(payload: bytes, size: int) -> bytes:
        nonlocal calls
        calls += 1
        return original(payload, size)

    def chosen(letter: int) -> Decode:
        assert letter == ord("e")
        return counted

    monkeypatch.setattr(container, "decoder", chosen)
    with read(io.BytesIO(boxed(bytes(400 << 12), block=1 << 12))) as back:
        assert sum(part.size for part in zeros(back)) == 400 << 12
    assert calls < 40


def zeros(chunks: Iterator[Chunk]) -> Iterator[Zeros]:
    for chunk in chunks:
        assert isinstance(chunk, Zeros)
        yield chunk


def test_a_block_is_coded_by_the_reference_library() -> None:
    assert lzfse.decompress(encoded(TEXT)) == TEXT
