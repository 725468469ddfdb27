from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacked_images import BASE, OVERLAID, stacked_manifest
from tartlet.image.format.layout import StackedImage, flat_layout, looks_stacked, read_layout, total_size
from tartlet.image.format.manifest import (
    BLOCK_SIZE,
    DISK,
    DISK_SIZE,
    FILE_DIGEST,
    FILE_PIECES,
    LEGACY_DISK,
    NVRAM,
    OCI_CONFIG,
    OVERLAY,
    PIECE_DIGEST,
    PIECE_SIZE,
    UPLOAD_TIME,
    VM_CONFIG,
    BadManifest,
    Descriptor,
    Manifest,
    blob_descriptor,
    canonical_json,
    digest_of,
    flat_manifest,
    oci_config,
    parse_labels,
    piece_descriptor,
    read_manifest,
)

HELLO = bytes.fromhex("6276342d0e00000048656c6c6f2c20576f726c64210a62763424")
LINUX_CONFIG = oci_config(architecture="arm64", system="linux", disk_format="raw")
GOLDEN_TIME = datetime(2024, 5, 14, 12, 20, 30, 999, tzinfo=timezone(timedelta(hours=2)))
D1, D2, D3 = (f"sha256:{digit * 64}" for digit in "123")


def golden_manifest() -> Manifest:
    return flat_manifest(
        vm_config=blob_descriptor(VM_CONFIG, b'{"version":1}'),
        disk=[
            piece_descriptor(
                digest=digest_of(HELLO), size=26, content_digest=digest_of(b"Hello, World!\n"), content_size=14
            )
        ],
        nvram=blob_descriptor(NVRAM, bytes(8)),
        oci_config=blob_descriptor(OCI_CONFIG, LINUX_CONFIG),
        disk_size=14,
        uploaded=GOLDEN_TIME,
    )


def test_the_golden_manifest_has_the_exact_bytes() -> None:
    raw = golden_manifest().encoded()
    assert len(raw) == 1042
    assert digest_of(raw) == "sha256:e0853699d16b011ec4df9715240fa0c0b556f1a865ced5cc5eeda004cb7c0977"
    assert b'"mediaType":"application\\/vnd.oci.image.config.v1+json"' in raw
    assert read_manifest(raw) == golden_manifest()
    assert read_manifest(raw).encoded() == raw


def test_the_golden_configs_have_the_exact_bytes() -> None:
    assert LINUX_CONFIG == (
        b'{"architecture":"arm64","config":{"Labels":{"org.cirruslabs.tart.disk.format":"raw"}},"os":"linux"}'
    )
    assert digest_of(LINUX_CONFIG) == "sha256:7ebb76025a1831b9abea3486d58c4c976928110195586a6c7575ef3b557062be"
    labels = {"com.example/owner": "a/b", "org.cirruslabs.tart.disk.format": "asif"}
    labelled = oci_config(architecture="arm64", system="darwin", disk_format="raw", labels=labels)
    assert len(labelled) == 128
    assert digest_of(labelled) == "sha256:74edbd446d32b7bfa5a60f9e00848ff2c2212990bd7bb202d88a488998f105be"


def test_the_golden_stacked_manifest_has_the_exact_bytes() -> None:
    manifest = stacked_manifest()
    raw = manifest.encoded()
    assert len(raw) == 1731
    assert digest_of(raw) == "sha256:094c1318f957f665ad967d186225526a39ef66f049ce54783058995cdcbcf5e6"
    layout = read_layout(read_manifest(raw))
    assert (layout.block_count, layout.disk_size) == (8, 4096)
    assert [file.digest for file in (layout.base, *layout.overlays)] == [digest_of(BASE), digest_of(OVERLAID)]
    with pytest.raises(StackedImage, match=r"ghcr\.io/a/b:1 has a stacked disk.*macOS 27"):
        flat_layout(manifest, "ghcr.io/a/b:1")


def test_an_image_needs_a_disk() -> None:
    golden = golden_manifest()
    with pytest.raises(BadManifest, match="needs a disk"):
        flat_manifest(
            vm_config=golden.layers[0],
            disk=[],
            nvram=golden.layers[2],
            oci_config=golden.config,
            disk_size=0,
            uploaded=GOLDEN_TIME,
        )


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ({"b": "a/b", "a": 1}, rb'{"a":1,"b":"a\/b"}'),
        ('"\\\b\f\n\r\t\x01\x1f\x7fé😀', b'"\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\x7f' + "é😀".encode() + b'"'),
        ({"é": {}, "z": [], "😀": None, "\uffff": True}, '{"z":[],"é":{},"\uffff":true,"😀":null}'.encode()),
    ],
)
def test_json_is_written_like_foundation_does(value: object, encoded: bytes) -> None:
    assert canonical_json(value) == encoded


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(BadManifest, match="not valid Unicode"):
        canonical_json({"a": "\udc80"})


@given(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_canonical_json_says_the_same_as_json(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


def b(digest: str | None = None, count: int | None = None, *, size: int = 1, kind: str = DISK) -> Descriptor:
    annotations = {PIECE_SIZE: str(size), PIECE_DIGEST: D3}
    if digest:
        annotations[FILE_DIGEST] = digest
    if count is not None:
        annotations[FILE_PIECES] = str(count)
    return Descriptor(media_type=kind, size=30, digest=D3, annotations=annotations)


def o(digest: str | None = None, count: int | None = None) -> Descriptor:
    return b(digest, count, kind=OVERLAY)


def plain(kind: str) -> Descriptor:
    return Descriptor(media_type=kind, size=2, digest=D3)


def image(*disk: Descriptor, annotations: dict[str, str] | None = None) -> Manifest:
    return Manifest(
        schema_version=2,
        config=plain(OCI_CONFIG),
        layers=(plain(VM_CONFIG), *disk, plain(NVRAM)),
        annotations=annotations,
    )


@pytest.mark.parametrize(
    ("disk", "digests", "groups"),
    [
        ([b()], (), [1]),
        ([b(D1)], (D1,), [1]),
        ([b(), b(), b(size=0)], (), [3]),
        ([b(D1), o(D2, 2), o()], (D1, D2), [1, 2]),
        ([b(D1), b(), o(D2, 1), o(D3, 2), o()], (D1, D2, D3), [2, 1, 2]),
    ],
)
def test_good_layers_are_grouped(disk: list[Descriptor], digests: tuple[str, ...], groups: list[int]) -> None:
    layout = read_layout(image(*disk))
    files = (layout.base, *layout.overlays)
    assert tuple(file.digest for file in files if file.digest) == digests
    assert [len(file.pieces) for file in files] == groups
    assert looks_stacked(image(*disk)) == (len(groups) > 1)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        ([b(), o(D2, 1)], "digest of its base"),
        ([b(D1), b(D3)], "only the first layer"),
        ([b(D1, 1)], "chunk count"),
        ([b(D1), o()], "needs the digest"),
        ([b(D1), o(D2)], "needs the digest"),
        ([b(D1), o(D2, 0)], "needs the digest"),
        ([b(D1), o(D2, 2)], "only 1 are left"),
        ([b(D1), o(D2, 2**64 - 1)], "only 1 are left"),
        ([b(D1), o(D2, 2), b()], "after an overlay"),
        ([b(D1), o(D2, 1), b()], "needs the digest"),
        ([b(D1), o(D2, 2), o(D3, 1)], "before the one below"),
        ([o(D2, 1)], "no disk layer"),
        ([plain(DISK)], "lacks its uncompressed size"),
        ([b("sha256:../../x")], "no SHA-256 digest"),
        ([b(), plain("application/x")], "layer of type application/x"),
        ([b(), plain("application/vnd.cirruslabs.tart.disk.asif.overlay.v2")], "overlay.v2"),
        ([b(), plain(NVRAM)], "exactly one NVRAM layer, this one has 2"),
        ([plain(VM_CONFIG), b()], "exactly one VM config"),
        ([], "no disk layer"),
        ([plain(LEGACY_DISK)], "format of 2023"),
        ([b(size=2**64 - 1), b()], "64 bits"),
        ([b(size=2**64)], "64 bits"),
    ],
)
def test_bad_layers_are_refused_with_the_reason(disk: list[Descriptor], reason: str) -> None:
    with pytest.raises(BadManifest, match=reason):
        read_layout(image(*disk))


@pytest.mark.parametrize("order", [[DISK, VM_CONFIG, NVRAM], [VM_CONFIG, NVRAM, DISK], [NVRAM, DISK, VM_CONFIG]])
def test_layers_out_of_order_are_refused(order: list[str]) -> None:
    layers = tuple(b() if kind == DISK else plain(kind) for kind in order)
    with pytest.raises(BadManifest, match="out of order"):
        read_layout(Manifest(schema_version=2, config=plain(OCI_CONFIG), layers=layers))


def test_pieces_lie_side_by_side_whatever_their_size() -> None:
    layout = read_layout(image(b(size=500_000_000), b(size=3), b(size=536_870_912)))
    assert [piece.offset for piece in layout.base.pieces] == [0, 500_000_000, 500_000_003]
    assert layout.disk_size == layout.base.size == 1_036_870_915


@pytest.mark.parametrize("told", ["4", "6", "0", "18446744073709551615"])
def test_a_disk_of_another_size_than_it_is_said_to_have_is_refused(told: str) -> None:
    with pytest.raises(BadManifest, match=f"hold 5 bytes of a disk that is said to have {told}"):
        flat_layout(image(b(size=2), b(size=3), annotations={DISK_SIZE: told}), "ghcr.io/a/b:1")


@pytest.mark.parametrize("annotations", [None, {DISK_SIZE: "5"}, {DISK_SIZE: "1024", BLOCK_SIZE: "512"}])
def test_images_that_tell_no_size_the_true_one_or_that_of_the_guest_are_read(
    annotations: dict[str, str] | None,
) -> None:
    assert flat_layout(image(b(size=2), b(size=3), annotations=annotations), "ghcr.io/a/b:1").base.size == 5


@pytest.mark.parametrize(("size", "block", "count"), [(100_000_000_000, 512, 195_312_500), (513, 512, None)])
def test_blocks_of_a_stacked_disk(size: int, block: int, count: int | None) -> None:
    stacked = image(b(D1), o(D2, 1), annotations={DISK_SIZE: str(size), BLOCK_SIZE: str(block)})
    assert read_layout(stacked).block_count == count
    assert read_layout(image(b(D1), o(D2, 1))).block_count is None


def test_sizes_add_up_or_overflow() -> None:
    assert total_size([1, 1]) == 2
    assert total_size([2**64 - 1, 1]) is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff{}", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"schemaVersion":2,"config":{},"layers":[]}', "cannot be read"),
        (b'{"schemaVersion":1,"name":"x"}', "version 1"),
        (b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}', "image.index"),
        (b'{"schemaVersion":2,"config":{"mediaType":"a","size":1,"digest":"sha256:1"},"layers":[]}', "no SHA-256"),
        (
            b'{"schemaVersion":2,"config":{"mediaType":"a","size":-1,"digest":"' + D1.encode() + b'"},"layers":[]}',
            "-1|>= 0",
        ),
        (b" " * (4 * 1024 * 1024 + 1), "too large"),
    ],
)
def test_what_is_no_manifest_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(BadManifest, match=reason):
        read_manifest(raw)


def test_a_foreign_manifest_may_say_more() -> None:
    descriptor = {"mediaType": OCI_CONFIG, "size": 2, "digest": D1, "urls": ["x"], "platform": {"os": "a"}}
    raw = json.dumps({"schemaVersion": 2, "config": descriptor, "layers": [], "subject": descriptor}).encode()
    assert read_manifest(raw).config.digest == D1


@given(st.binary(max_size=200) | st.from_regex(rb'\{"schemaVersion":2,("(config|layers|mediaType)":.{0,30}){0,3}\}'))
def test_no_bytes_make_the_reader_stumble(raw: bytes) -> None:
    with suppress(BadManifest):
        assert read_layout(read_manifest(raw)).base.pieces


def test_labels() -> None:
    assert parse_labels([" a=b ", "c", "=x", "a=d=e", "", "k= v"]) == {"a": "d=e", "c": "", "k": " v"}


def test_upload_time_is_whole_seconds_of_utc() -> None:
    assert golden_manifest().annotation(UPLOAD_TIME) == "2024-05-14T10:20:30Z"
    assert GOLDEN_TIME.astimezone(UTC).microsecond == 999
