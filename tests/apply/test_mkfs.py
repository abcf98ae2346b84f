# SPDX-License-Identifier: Apache-2.0
"""Fresh file systems, against what mke2fs makes and against e2fsck."""

import re

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import ext4
from overlaybd_tcmu.units import GiB, KiB, MiB

from . import archive, disk

FEATURES = (
    "ext_attr resize_inode dir_index sparse_super2 filetype extent 64bit flex_bg sparse_super"
)
FEATURES += " large_file huge_file dir_nlink extra_isize"


def superblock(image):
    text = disk.run("dumpe2fs", "-h", image.path)
    return dict(re.findall(r"^([^:\n]+):\s*(.*?) *$", text, re.MULTILINE))


@pytest.mark.parametrize("size", [1 * MiB, 8 * MiB, 100 * MiB + 512, 129 * MiB, 4 * GiB])
def test_file_system_is_whole(tmp_path, size):
    image = disk.Image(tmp_path / "disk", size).mkfs().check()
    image.apply(archive.file(b"d/f", b"text") + archive.END)
    assert image.check().debugfs("cat d/f") == "text"


def test_parameters(tmp_path):
    seen = superblock(disk.Image(tmp_path / "disk", 64 * GiB).mkfs())
    expected = {
        "Filesystem UUID": "bdf7bb2e-c231-43ce-87c2-299792458ef5",
        "Filesystem features": FEATURES,
        "Filesystem state": "clean",
        "Errors behavior": "Continue",
        "Inode count": str(64 * GiB // 16384),
        "Block count": str(64 * GiB // 4096),
        "Reserved block count": str(64 * GiB // 4096 // 20),
        "Block size": "4096",
        "Inode size": "256",
        "Backup block groups": "1 511",
        "Maximum mount count": "-1",
        "Default directory hash": "half_md4",
    }
    assert {key: seen[key] for key in expected} == expected


MKE2FS = "-b 4096 -I 256 -i 16384 -m 5 -G 1 -O none,ext_attr,resize_inode,dir_index,sparse_super2,"
MKE2FS += "filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize"
MKE2FS += " -E lazy_itable_init=1,num_backup_sb=2,nodiscard"
# What chance, the clock and mke2fs.conf decide; and the overhead, which the kernel adds up itself.
FREE = {"Filesystem UUID", "Directory Hash Seed", "Filesystem created", "Last write time"}
FREE |= {"Last checked", "Default mount options", "Lifetime writes", "Overhead clusters"}


def test_layout_is_that_of_mke2fs(tmp_path):
    ours = superblock(disk.Image(tmp_path / "ours", 10 * GiB).mkfs())
    theirs = superblock(disk.Image(tmp_path / "theirs", 10 * GiB).mke2fs(*MKE2FS.split()))
    assert ours.keys() - FREE == theirs.keys() - FREE
    assert {key: value for key, value in ours.items() if theirs.get(key) != value}.keys() <= FREE


def test_it_is_the_same_every_time(tmp_path):
    images = [disk.Image(tmp_path / name).mkfs() for name in ("one", "two")]
    assert images[0].path.read_bytes() == images[1].path.read_bytes()


def test_what_was_on_the_disk_is_gone(tmp_path):
    fresh = disk.Image(tmp_path / "fresh").mkfs().path.read_bytes()
    used = disk.Image(tmp_path / "used")
    used.path.write_bytes(b"\xa5" * len(fresh))
    assert used.mkfs().path.read_bytes() == fresh


def test_empty_disk_of_64_gib_is_small(tmp_path):
    image = disk.Image(tmp_path / "disk", 64 * GiB).mkfs()
    assert image.path.stat().st_blocks * 512 < 10 * MiB


@pytest.mark.parametrize("size", [0, 512, 4096, 64 * KiB])
def test_disk_that_is_too_small(tmp_path, size):
    with pytest.raises(errors.NativeError, match="mkfs: "):
        disk.Image(tmp_path / "disk", size).mkfs()


def test_disk_that_another_program_writes(tmp_path):
    path = str(disk.Image(tmp_path / "disk").path)
    with ext4.file_disk(path), pytest.raises(OSError, match="another program writes it"):
        with ext4.file_disk(path):
            pass


def test_kernel_writes_to_it(image, tmp_path):
    if not disk.can_mount():
        pytest.skip("mounting needs root and loop devices")
    mount = tmp_path / "mount"
    mount.mkdir()
    disk.run("mount", "-o", "loop", image.path, mount)
    try:
        for i in range(300):
            (mount / f"file{i}").write_bytes(b"x" * 5000)
    finally:
        disk.run("umount", mount)
    image.check()
    image.apply(archive.file(b"file7", b"ours") + archive.END)
    tree = image.tree()
    assert len(tree) == 300 and tree["file7"].content[0] == 4
