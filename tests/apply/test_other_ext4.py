# SPDX-License-Identifier: Apache-2.0
"""File systems that others have made: what we understand is written well, the rest is refused."""

import pytest

from overlaybd_tcmu import errors
from tests.support import golden

from . import archive, disk

LAYERS = ["layer0", "layer1", "layer2"]
OPTIONS = {
    "defaults of mke2fs": [],
    "no journal": ["-O", "^has_journal"],
    "1 KiB blocks": ["-b", "1024"],
    "2 KiB blocks": ["-b", "2048"],
    "small inodes": ["-I", "128"],
    "large inodes": ["-I", "1024"],
    "no checksums": ["-O", "^metadata_csum"],
    "checksums of groups": ["-O", "^metadata_csum,uninit_bg"],
    "32 bits": ["-O", "^64bit"],
    "meta groups": ["-O", "meta_bg,^resize_inode"],
    "no huge files": ["-O", "^huge_file,^large_file,^dir_nlink"],
    "no index": ["-O", "^dir_index"],
    "seeded checksums": ["-O", "metadata_csum_seed"],
    "large directories": ["-O", "large_dir"],
    "as the snapshotter does": ["-O", "^has_journal,sparse_super,flex_bg", "-G", "1"],
    "the base layer of 2021": ["-O", "^metadata_csum,uninit_bg,has_journal"],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_layers_on_what_mke2fs_made(tmp_path, options):
    image = disk.Image(tmp_path / "disk", 256 << 20).mke2fs(*options).check()
    ours = disk.Image(tmp_path / "ours", 256 << 20).mkfs()
    for name in LAYERS:
        for target in (image, ours):
            target.apply(golden.folder() / "tars" / f"{name}.tar")
        image.check()
    assert disk.differences(image.tree(), ours.tree()) == []
    assert disk.differences(image.tree_read(), ours.tree_read()) == []


def test_times_that_small_inodes_cannot_hold(tmp_path):
    image = disk.Image(tmp_path / "disk").mke2fs("-I", "128")
    image.apply(archive.pax({b"mtime": b"4000000000.5"}) + archive.file(b"f") + archive.END)
    assert image.check().tree()["f"].mtime == 0x7FFFFFFF * 10**9


REFUSED = {
    "bigalloc": (["-O", "bigalloc"], "features that cannot be written"),
    "inline data": (["-O", "inline_data"], "features that cannot be written"),
    "attribute inodes": (["-O", "ea_inode"], "features that cannot be written"),
    "quota": (["-O", "quota"], "features that cannot be written"),
    "casefold": (["-O", "casefold"], "features that cannot be written"),
    "encryption": (["-O", "encrypt"], "features that cannot be written"),
    "mount protection": (["-O", "mmp"], "features that cannot be written"),
    "verity": (["-O", "verity"], "features that cannot be written"),
    "ext2": (["-t", "ext2"], "has no extents"),
    "ext3": (["-t", "ext3"], "has no extents"),
}


@pytest.mark.parametrize("options, reason", REFUSED.values(), ids=REFUSED)
def test_what_we_do_not_understand_is_refused(tmp_path, options, reason):
    image = disk.Image(tmp_path / "disk").mke2fs(*options)
    before = image.path.read_bytes()
    with pytest.raises(errors.NativeError, match=reason):
        image.apply(archive.file(b"f") + archive.END)
    assert image.path.read_bytes() == before


@pytest.mark.parametrize(
    "command, reason",
    [
        ("feature needs_recovery", "not unmounted"),
        ("set_super_value last_orphan 12", "not unmounted"),
        ("set_super_value state 3", "having errors"),
        ("set_super_value blocks_count 9000", "9000 blocks of 4096 bytes, but the disk 33554432"),
    ],
)
def test_state_we_do_not_touch(tmp_path, command, reason):
    image = disk.Image(tmp_path / "disk").mke2fs("-b", "4096", "-O", "^metadata_csum")
    disk.run("debugfs", "-w", "-R", command, image.path)
    with pytest.raises(errors.NativeError, match=reason):
        image.apply(archive.file(b"f") + archive.END)


@pytest.mark.parametrize(
    "offset, reason", [(56, "there is no ext4"), (24, "opened"), (88, "opened"), (32, "opened")]
)
def test_superblock_that_makes_no_sense(tmp_path, offset, reason):
    """Magic, block size, inode size, blocks of a group."""
    image = disk.Image(tmp_path / "disk").mkfs()
    with open(image.path, "r+b") as file:
        file.seek(1024 + offset)
        file.write(b"\x63\0")
    with pytest.raises(errors.NativeError, match=reason):
        image.apply(archive.file(b"f") + archive.END)


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(1 << 20), b"\xff" * (1 << 20)])
def test_no_file_system_at_all(tmp_path, content):
    image = disk.Image(tmp_path / "disk", 0)
    image.path.write_bytes(content)
    with pytest.raises(errors.NativeError, match="no ext4 on the disk|cannot be opened"):
        image.apply(archive.file(b"f") + archive.END)


@pytest.mark.parametrize(
    "command, entry",
    [
        ("set_inode_field d links_count 0", archive.file(b"d/f")),
        ("clri d", archive.file(b"d/f")),
        ("set_inode_field d block[5] 0xffffff", archive.file(b"d/f")),
        ("set_inode_field d size 0x7ffff000", archive.file(b"d/f")),
        ("link d d/e/loop", archive.whiteout(b"d")),
        ("link / d/e/root", archive.opaque(b"d")),
        ("set_inode_field s size 5000", archive.file(b"s/f")),
        ("set_inode_field s size 0", archive.file(b"s/f")),
    ],
)
def test_damaged_file_system(tmp_path, command, entry):
    """An error that says what is damaged; never more damage, a crash or an endless loop."""
    image = disk.Image(tmp_path / "disk").mkfs()
    image.apply(archive.file(b"d/e/f") + archive.symlink(b"s", b"d" * 70) + archive.END)
    disk.run("debugfs", "-w", "-R", command, image.path)
    with pytest.raises(errors.NativeError, match="damaged|Structure needs cleaning"):
        image.apply(entry + archive.END)


def test_base_layer_of_2021_has_nothing_to_mend(tmp_path):
    """The published one has a journal, and groups that were never written."""
    image = disk.Image(tmp_path / "disk", 1 << 30)
    image.mke2fs("-O", "^metadata_csum,uninit_bg,has_journal", "-E", "lazy_itable_init=1")
    entries = b"".join(archive.file(b"d%03d/f" % i, b"x" * 10000) for i in range(200))
    image.apply(entries + archive.END)
    image.check()
