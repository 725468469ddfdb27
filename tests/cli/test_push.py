"""`tart push` as its users call it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from command import TART, Called, surroundings, tart
from disk_files import guest_writes, image_format
from registries import Fault, Front
from tartlet.image.format.manifest import read_manifest
from tartlet.image.registry.registry import opened


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the VM `vm`: a GB, of it a MB of noise."""
    home = tmp_path / "home"
    assert tart(home, "create", "--linux", "vm", "--disk-size", "1").code == 0
    with (home / "vms" / "vm" / "disk.img").open("r+b") as disk:
        disk.write(os.urandom(1_000_000))
    return home


async def called(home: Path, *words: str, **environment: str) -> Called:
    return await to_thread.run_sync(lambda: tart(home, *words, timeout=60, **environment))


async def test_a_vm_is_pushed_and_said_so(home: Path, before: Front) -> None:
    names = [f"{before.host}/a/vm:{tag}" for tag in ("1", "2")]
    done = await called(home, "push", "--insecure", "--label", "a=b", "--label", "c", "vm", *names)
    assert (done.code, done.err) == (0, "")
    first, *percents, last = done.out.splitlines()
    assert first == f"pushing {names[0]} and 1 more..."
    assert percents[-1] == "100%"
    assert all(re.fullmatch(r"\d+%", line) for line in percents)
    digest = last.split()[1].removesuffix(":")
    assert last == f"pushed {digest}: 2 MB sent, 906 MB of the disk reused"
    async with opened(insecure=True) as registries:
        repository = registries.repository(before.host, "a/vm")
        manifest = read_manifest(await repository.manifest(digest))
        labels = json.loads(await repository.read_blob(manifest.config))["config"]["Labels"]
    assert labels == {"a": "b", "c": "", "org.cirruslabs.tart.disk.format": "raw"}


async def test_a_reader_that_has_enough_ends_the_push_without_a_word(home: Path, before: Front) -> None:
    words = [str(TART), "push", "--insecure", "vm", f"{before.host}/unread/vm:1"]
    before.faults.append(Fault("POST", r"/blobs/", stall=0.5))  # time to close the pipe in
    reading, writing = os.pipe()
    async with await anyio.open_process(words, stdout=writing, env=surroundings(home)) as process:
        os.close(writing)
        await to_thread.run_sync(os.read, reading, 1)
        os.close(reading)
        assert process.stderr
        said = b"".join([part async for part in process.stderr])
        assert (await process.wait(), said) == (1, b"")
    assert before.count("PUT", "/manifests/") == 0


async def test_programs_get_objects(home: Path, before: Front) -> None:
    words = ("--insecure", "--concurrency", "0", "--chunk-size", "5", "--populate-cache", "--format", "json")
    done = await called(home, "push", "vm", f"{before.host}/b/vm:1", *words)
    told = [json.loads(line) for line in done.out.splitlines()]
    assert told[0]["stage"] == f"pushing {before.host}/b/vm:1"
    assert told[-2]["done"] == told[-2]["total"] == 1_000_000_000
    assert told[-1]["result"] == "pushed"
    assert 1_000_000 < told[-1]["sent"] < 2_000_000
    assert {
        Path(link).name for link in os.listdir(home / "cache" / "OCIs" / before.host.replace(":", "%3A") / "b/vm")
    } == {
        "1",
        told[-1]["digest"],
    }
    again = await called(home, "push", f"{before.host}/b/vm:1", f"{before.host}/b/vm:2", "--insecure")
    assert (again.code, again.err) == (0, "")
    assert told[-1]["digest"] in again.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 64, "<local-name>"),
        (("vm",), 64, "<remote-names>"),
        (("nope", "localhost/a/b"), 2, '"nope" does not exist'),
        (("localhost/not/cached", "localhost/a/b"), 2, '"localhost/not/cached:latest" does not exist'),
        (("vm", "nope"), 1, "'nope' is not an image name"),
        (("vm", "localhost/a/b@sha256:" + 64 * "0"), 1, "give a tag instead"),
        (("vm", "localhost/a/b", "--chunk-size", "-1"), 64, "--chunk-size"),
    ],
)
async def test_mistakes_are_told(home: Path, words: tuple[str, ...], code: int, told: str) -> None:
    done = await called(home, "push", *words)
    assert done.code == code
    assert told in done.err
    assert "Traceback" not in done.err


async def test_a_registry_that_wants_a_login_is_told_with_what_to_do(home: Path, before: Front) -> None:
    before.auth = "bearer"
    words = ("push", "--insecure", "vm", f"{before.host}/c/vm:1")
    refused = await called(home, *words, HOME=str(home))
    assert refused.code == 1
    assert "gives no token" in refused.err
    assert "tart login" in refused.err
    secret = {"TART_REGISTRY_USERNAME": "alice", "TART_REGISTRY_PASSWORD": "s3cr:t"}
    done = await called(home, *words, HOME=str(home), **secret)
    assert done.code == 0
    assert "s3cr:t" not in done.out + done.err


async def test_a_name_that_the_registry_cannot_have_is_told_once_with_what_to_do(home: Path, before: Front) -> None:
    done = await called(home, "push", "--insecure", "vm", f"{before.host}/Upper/Case:1")
    assert done.code == 1
    told, hint = done.err.splitlines()
    assert "/v2/Upper/Case/blobs/uploads/ with 404" in told
    assert "lower-case" in hint


async def test_labels_for_an_image_that_has_its_own_are_refused_in_words(home: Path, before: Front) -> None:
    await called(home, "push", "vm", f"{before.host}/l/vm:1", "--insecure", "--populate-cache")
    done = await called(home, "push", f"{before.host}/l/vm:1", f"{before.host}/l/vm:2", "--insecure", "--label", "a=b")
    assert (done.code, done.err.splitlines()) == (
        0,
        ["--label changes nothing: an image of a registry keeps the labels that it has"],
    )


async def test_one_reason_for_several_failures_is_told_once(home: Path, before: Front) -> None:
    before.faults.append(Fault("HEAD", r"/blobs/", times=100, status=403))
    done = await called(home, "push", "--insecure", "vm", f"{before.host}/e/vm:1")
    assert done.code == 1
    assert len(done.err.splitlines()) == 2


async def test_a_registry_that_refuses_is_told(home: Path, before: Front) -> None:
    before.faults.append(Fault("PUT", r"/blobs/uploads/", times=100, status=413))
    done = await called(home, "push", "--insecure", "vm", f"{before.host}/d/vm:1")
    assert done.code == 1
    assert "try `--chunk-size`" in done.err
    assert "Traceback" not in done.err


async def test_a_clone_of_an_image_sends_what_its_guest_wrote(home: Path, before: Front, tmp_path: Path) -> None:
    name, other = f"{before.host}/e/vm", tmp_path / "other"
    assert (await called(home, "push", "--insecure", "vm", f"{name}:1")).code == 0
    assert (await called(other, "clone", "--insecure", f"{name}:1", "clone")).code == 0
    guest_writes(other / "vms" / "clone", 500_000_768, 4096, 7)
    done = await called(other, "push", "--insecure", "--format", "json", "clone", f"{name}:2")
    assert json.loads(done.out.splitlines()[-1])["sent"] < 200_000  # a piece of zeros and 4 KiB
    assert (await called(home, "pull", "--insecure", f"{name}:2")).code == 0
    (image,) = (home / "cache" / "OCIs").glob("*/e/vm/2")
    disks = [str(image / "disk.img"), str(other / "vms" / "clone" / "disk.img")]
    compared = await anyio.run_process(["qemu-img", "compare", "-f", "raw", "-F", image_format(Path(disks[1])), *disks])
    assert b"identical" in compared.stdout
