"""A raw, sparse disk made of folders: partition table, EFI system partition, root; no mount, no loop device."""

from __future__ import annotations

import os
from pathlib import Path

from tartlet.build.layout import SECTOR, Layout, layout_for
from tartlet.build.progress import Progress, Report
from tartlet.build.recipe import Recipe
from tartlet.build.requirements import search_path
from tartlet.build.sandbox import boxed
from tartlet.host.process import run

_BLOCK = 4096

_MKE2FS_CONF = """\
[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
    features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
"""
"""Features every kernel and e2fsck of the suites knows, whatever this machine's mke2fs would choose."""


async def make_disk(recipe: Recipe, root: Path, esp: Path, target: Path, report: Report) -> None:
    """Write `target` from the two folders. Raises ToolFailed."""
    report(Progress("writing the disk"))
    layout = layout_for(await _bytes_in(root))
    with target.open("xb") as file:
        file.truncate(layout.disk_size)
    await run("sfdisk", "--quiet", target, stdin=layout.sfdisk_script(recipe).encode(), env={"PATH": search_path()})
    await _write_esp(recipe, layout, esp, target)
    await _write_root(recipe, layout, root, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


async def _bytes_in(folder: Path) -> int:
    told = await run(*boxed("du", "--summarize", "--block-size=1", folder))
    return int(told.split()[0])


async def _write_esp(recipe: Recipe, layout: Layout, folder: Path, target: Path) -> None:
    environment = {"PATH": search_path(), "SOURCE_DATE_EPOCH": "1700000000", "MTOOLS_SKIP_CHECK": "1"}
    serial = f"{recipe.identifier('esp').int & 0xFFFFFFFF:08x}"
    words = ["mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", serial, f"--offset={layout.esp_offset // SECTOR}"]
    await run(*words, target, str(layout.esp_size // 1024), env=environment)
    inside = f"{target}@@{layout.esp_offset}"
    entries = sorted(os.listdir(folder))
    await run(*boxed("mcopy", "-s", "-Q", "-i", inside, *(folder / entry for entry in entries), "::"), env=environment)


async def _write_root(recipe: Recipe, layout: Layout, folder: Path, target: Path) -> None:
    settings = target.with_name("mke2fs.conf")
    settings.write_text(_MKE2FS_CONF)
    extended = f"offset={layout.root_offset},hash_seed={recipe.identifier('hash')},root_owner=0:0,lazy_itable_init=1"
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-U", str(recipe.identifier("ext4"))]
    await run(
        *boxed(*words, "-E", extended, "-d", folder, target, str(layout.root_size // _BLOCK)),
        env={"PATH": search_path(), "MKE2FS_CONFIG": os.fspath(settings), "E2FSPROGS_FAKE_TIME": "1700000000"},
    )
    settings.unlink()
