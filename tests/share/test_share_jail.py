"""The room virtiofsd runs in, looked at by a shell in its place: what it sees, may write, and whose that is then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tartlet.share import seccomp
from tartlet.share.idmap import ids_of, only, swapped

PACKAGES = Path(seccomp.__file__).parents[2]
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from tartlet.share.jail import main; main()"

AS_ROOT = pytest.param((), id="root", marks=pytest.mark.needs_root)
AS_USER = pytest.param(
    ("unshare", "--user", "--map-user=1500", "--map-group=1500"), id="ordinary user"
)  # no rights here: it is nobody in particular in a namespace of its own
WHO = pytest.mark.parametrize("who", [AS_ROOT, AS_USER])
NO_NAMESPACES = (
    "unshare", "--user", "--map-root-user", "sh", "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh",
)  # fmt: skip


def jailed(
    who: Sequence[str], tmp_path: Path, folders: dict[str | None, tuple[Path, bool]], script: str
) -> subprocess.CompletedProcess[str]:
    """A script in the jail; `$1` is the folder virtiofsd would share."""
    if who and subprocess.run([*who[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces")
    (tmp_path / "root").mkdir(exist_ok=True)
    told = {
        "parent": os.getpid(),
        "root": str(tmp_path / "root"),
        "folders": [{"path": str(path), "name": name, "read_only": ro} for name, (path, ro) in folders.items()],
        "words": ["/bin/sh", "-c", script, "sh", "{source}"],
        "guarded": False,
    }
    words = [*who, sys.executable, "-I", "-S", "-c", START, str(PACKAGES), json.dumps(told)]
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def two(tmp_path: Path) -> dict[str | None, tuple[Path, bool]]:
    """A writable folder and one that is not, with a file each."""
    for name in ("work", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return {"w": (tmp_path / "work", False), "k": (tmp_path / "kept", True)}


@WHO
def test_names_are_folders_of_one_root(
    who: Sequence[str], tmp_path: Path, two: dict[str | None, tuple[Path, bool]]
) -> None:
    told = jailed(who, tmp_path, two, 'cd "$1" && ls && cat */file && echo && stat -c "%u %g" . */file')
    assert told.stdout.split() == ["k", "w", "keptwork", *("1000", "1000") * 3], told
    assert list((tmp_path / "root").iterdir()) == []


@WHO
def test_only_what_is_shared_for_writing_can_be_written(
    who: Sequence[str], tmp_path: Path, two: dict[str | None, tuple[Path, bool]]
) -> None:
    outside = tmp_path / "outside"
    script = f'cd "$1"; for new in w/new k/new new k/file {outside}; do (echo x > $new) 2>/dev/null && echo $new; done'
    assert jailed(who, tmp_path, two, script).stdout == "w/new\n"
    assert sorted(path.name for path in tmp_path.rglob("new")) == ["new"]
    assert (tmp_path / "work" / "new").stat().st_uid == os.geteuid()
    assert (tmp_path / "kept" / "file").read_text() == "kept"
    assert not outside.exists()


@WHO
def test_a_folder_without_a_name_is_the_root_itself(who: Sequence[str], tmp_path: Path) -> None:
    folder = tmp_path / "a, b\\c"
    folder.mkdir()
    told = jailed(who, tmp_path, {None: (folder, False)}, 'cd "$1" && echo x > new && ls -A')
    assert (told.stdout, told.stderr) == ("new\n", "")


@WHO
def test_nobody_else_owns_anything_and_nothing_runs_as_its_owner(who: Sequence[str], tmp_path: Path) -> None:
    script = (
        'cd "$1"; : > f; chown 5:6 f && stat -c "%u %g" f; chmod 4755 f 2>/dev/null || echo refused; '
        "chmod 755 f && chmod 2755 f && stat -c %a f; mknod n b 1 1 2>/dev/null || echo no device"
    )
    told = jailed(who, tmp_path, {None: (tmp_path, False)}, script)
    assert told.stdout == "1000 1000\nrefused\n2755\nno device\n", told


@pytest.mark.needs_root
def test_for_root_the_guests_files_are_those_of_the_folders_owner(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 4242, 4343)
    (folder / "roots").touch(mode=0o600)
    script = 'cd "$1"; : > new; stat -c "%u %g %n" *; echo x > roots'
    told = jailed((), tmp_path, {None: (folder, False)}, script)
    assert told.stdout == "1000 1000 new\n0 0 roots\n", told
    made = (folder / "new").stat()
    assert (made.st_uid, made.st_gid) == (4242, 4343)
    assert (folder / "roots").read_text() == "x\n"


def test_without_namespaces_one_plain_folder_can_be_shared(tmp_path: Path) -> None:
    told = jailed(NO_NAMESPACES, tmp_path, {None: (tmp_path, False)}, 'cd "$1"; : > f; chown 5 f; stat -c %u f; pwd -P')
    assert told.stdout == f"0\n{tmp_path}\n", told


@pytest.mark.parametrize(("name", "read_only"), [(None, True), ("name", False)])
def test_without_namespaces_nothing_is_shared_with_less_protection_than_asked(
    tmp_path: Path, name: str | None, read_only: bool
) -> None:
    told = jailed(NO_NAMESPACES, tmp_path, {name: (tmp_path, read_only)}, "echo started")
    assert told.returncode == 1
    assert told.stdout == ""
    assert told.stderr.startswith("this system forbids namespaces to the sandbox of shared folders (")


def test_virtiofsd_itself_serves_without_namespaces(kind: str, tmp_path: Path) -> None:
    script = (
        "import anyio, sys; from pathlib import Path\n"
        "from tartlet.share.arguments import grouped; from tartlet.share.serving import serving\n"
        "async def main():\n"
        "    async with serving(grouped(sys.argv[2:]), Path(sys.argv[1])): print('served')\n"
        "anyio.run(main)"
    )
    words = [*NO_NAMESPACES, sys.executable, "-c", script, str(tmp_path)]
    served = subprocess.run([*words, str(tmp_path)], capture_output=True, text=True, check=False, timeout=30)
    assert (served.stdout, served.stderr) == ("served\n", "")
    refused = subprocess.run([*words, f"a:{tmp_path}"], capture_output=True, text=True, check=False, timeout=30)
    assert "this system forbids namespaces" in refused.stderr.splitlines()[-1]
    read_only = subprocess.run([*words, f"{tmp_path}:ro"], capture_output=True, text=True, check=False, timeout=30)
    assert read_only.stdout == ("served\n" if kind == "Rust" else "")  # which has an option for this


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    told = jailed((), tmp_path, {"name": (tmp_path / "gone", False)}, "echo started")
    assert (told.returncode, told.stderr) == (1, f"{tmp_path}/gone: No such file or directory\n")


@pytest.mark.parametrize(
    ("owner", "known", "expected"),
    [
        (1000, [(0, 2000)], [(1000, 1000, 1), (0, 0, 1000), (1001, 1001, 999)]),
        (0, [(0, 2000)], [(1000, 0, 1), (0, 1000, 1), (1, 1, 999), (1001, 1001, 999)]),
        (
            7,
            [(0, 10), (500, 1000)],
            [(1000, 7, 1), (7, 1000, 1), (0, 0, 7), (8, 8, 2), (500, 500, 500), (1001, 1001, 499)],
        ),
        (0, [(0, 1)], [(1000, 0, 1)]),
        (7, [(0, 1)], [(0, 0, 1)]),
    ],
)
def test_the_map_of_root(owner: int, known: list[tuple[int, int]], expected: list[tuple[int, int, int]]) -> None:
    lines = [tuple(map(int, line.split())) for line in swapped(owner, known).splitlines()]
    assert lines == expected


def test_the_map_of_a_user_and_the_ids_of_a_process() -> None:
    assert only(1500) == "1000 1500 1\n"
    assert ids_of("         0          0 4294967295\n") == [(0, 4294967295)]
    assert ids_of("0 1000 1\n1 100000 65536\n") == [(0, 1), (1, 65536)]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_whole(machine: str) -> None:
    program = seccomp.program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096
