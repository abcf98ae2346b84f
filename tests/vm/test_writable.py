# SPDX-License-Identifier: Apache-2.0
"""Writable disks as the snapshotter's modes `dir` and `dev` have them."""
import errno
import time

import pytest

from . import images
from .disks import assert_clean, attached, small_folder

FOLDER = "/root/writable"
PLACE = "/mnt/writable"
SMALL = "/mnt/small"
GiB = 1 << 30
DEV_SIZE = "/sys/kernel/config/target/core/user_999999999/dev_1/attrib/dev_size"
LSMT_MAGIC = "4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a"
STACK = images.STACKS["lz4-4k"]


@pytest.fixture
def serving(guest):
    guest.call("service.start")
    guest.call("files.remove", FOLDER)
    return guest


def problems(guest, disk):
    """What e2fsck finds, without its counts."""
    lines = guest.call("writable.check", disk)["output"].splitlines()
    return [line for line in lines if "files (" not in line]


def test_first_layer_is_made_written_sealed_and_served(serving):
    config = serving.call("writable.create", FOLDER, 64)
    assert serving.call("writable.magic", FOLDER) == LSMT_MAGIC
    disk = attached(serving, config)
    queue = serving.call("kernel.queue", disk)
    assert (queue["ro"], queue["write_cache"]) == ("0", "write back")
    assert int(queue["discard_max_bytes"]) >= 1 << 30
    assert int(queue["write_zeroes_max_bytes"]) >= 1 << 30
    seconds = serving.call("writable.mkfs", disk)
    print(f"mkfs of 64 GiB: {seconds:.1f} s, {serving.call('writable.used', FOLDER) >> 10} KiB")
    assert serving.call("writable.used", FOLDER) < 48 << 20
    serving.call("mounts.mount", disk, PLACE, read_only=False)
    serving.call("writable.write_random", f"{PLACE}/file", 3 << 20)
    expected = serving.call("mounts.digests", PLACE)
    serving.call("mounts.unmount", PLACE)
    assert_clean(serving, disk)
    serving.call("disk.detach", 1)
    assert not [path for path in serving.call("service.open_files") if FOLDER in path]
    disk = attached(serving, serving.call("writable.seal", FOLDER))
    assert serving.call("kernel.queue", disk)["ro"] == "1"
    serving.call("mounts.mount", disk, PLACE)
    assert serving.call("mounts.digests", PLACE) == expected


def test_container_layer_over_an_image(serving):
    lowers = STACK.config(images.GOLDEN)["lowers"]
    disk = attached(serving, serving.call("writable.create", FOLDER, 0, lowers))
    before = problems(serving, disk)  # the image was not made by a kernel
    serving.call("mounts.mount", disk, PLACE, read_only=False)
    serving.call("writable.write_random", f"{PLACE}/{STACK.largest_file}", 1 << 20)
    serving.call("mounts.unmount", PLACE)
    # The kernel may have mended the counts of the superblock meanwhile; what it must not do is add.
    assert set(problems(serving, disk)) <= set(before)
    serving.call("mounts.mount", disk, PLACE, read_only=False)
    found = serving.call("mounts.digests", PLACE)
    assert found.pop(STACK.largest_file) != STACK.sha256_of[STACK.largest_file]
    expected = dict(STACK.sha256_of)
    expected.pop(STACK.largest_file)
    assert found == expected


@pytest.mark.parametrize("sparse", [False, True])
def test_verified_writes_survive_kills(serving, sparse):
    disk = attached(serving, serving.call("writable.create", FOLDER, 1, sparse=sparse))
    serving.call("writable.mkfs", disk)
    serving.call("mounts.mount", disk, PLACE, read_only=False)
    writing = serving.start("writable.verify", f"{PLACE}/data", "24m", 7)
    for _ in range(2):
        serving.call("writable.wait_written", disk, 60)
        serving.call("service.kill")
        time.sleep(0.2)
        serving.call("service.start")
    outcome = writing.result(120)
    assert outcome["status"] == 0, outcome["output"]
    serving.call("mounts.unmount", PLACE)
    serving.call("service.kill")
    serving.call("service.start")
    assert_clean(serving, disk)
    serving.call("mounts.mount", disk, PLACE, read_only=False)
    outcome = serving.call("writable.verify", f"{PLACE}/data", "24m", 7, only=True)
    assert outcome["status"] == 0, outcome["output"]


def looked_at(guest, disk):
    """The kernel asks for the disk's size; bytes."""
    rescan = f"echo 1 > /sys/block/{disk}/device/rescan"
    assert guest.call("kernel.command", "sh", "-c", rescan)["status"] == 0
    return int(guest.call("kernel.queue", disk)["size"]) * 512


def writes(guest, disk):
    """How many the disk has finished."""
    shown = guest.call("kernel.command", "cat", f"/sys/block/{disk}/stat")["output"]
    return int(shown.split()[4])


def test_disk_grows_under_a_mounted_file_system(guest):
    """
    While fio writes to it: by request and by configfs, and the second time the daemon is killed
    before the kernel looks.
    """
    api = "unix:///run/overlaybd-test.sock"
    guest.call("service.start", {"serviceConfig": {"enable": True, "address": api}})
    guest.call("files.remove", FOLDER)
    guest.expected = ["Capacity data has changed"]
    config = guest.call("writable.create", FOLDER, 1)
    disk = guest.call("disk.attach", 1, config, device_id="grows")["disk"]
    guest.call("writable.mkfs", disk)
    guest.call("mounts.mount", disk, PLACE, read_only=False)
    before = writes(guest, disk)
    writing = guest.start("writable.verify", f"{PLACE}/data", "2m", 7)
    while writes(guest, disk) < before + 5 and not writing.done:
        time.sleep(0.02)
    for size, command in (
        (3 * GiB, f"/opt/overlaybd/bin/overlaybd-ctl --address {api} resize grows 3G"),
        (4 * GiB, f"echo {4 * GiB} > {DEV_SIZE}"),
    ):
        done = guest.call("kernel.command", "sh", "-c", command)
        assert done["status"] == 0, done["output"]
        if size == 4 * GiB:
            guest.call("service.kill")
            guest.call("service.start")
        assert looked_at(guest, disk) == size
    done = guest.call("kernel.command", "resize2fs", f"/dev/{disk}")
    assert done["status"] == 0, done["output"]
    outcome = writing.result()
    assert outcome["status"] == 0, outcome["output"]
    filling = ["fallocate", "-l", str(2 * GiB), f"{PLACE}/filling"]
    assert guest.call("kernel.command", *filling)["status"] == 0
    guest.call("writable.write_random", f"{PLACE}/behind", 1 << 20)
    assert guest.call("writable.end_of", f"{PLACE}/behind") > GiB
    assert guest.call("kernel.command", "rm", f"{PLACE}/filling")["status"] == 0
    expected = guest.call("mounts.digests", PLACE)
    guest.call("mounts.unmount", PLACE)
    assert_clean(guest, disk)
    guest.call("disk.detach", 1)
    disk = attached(guest, config)
    assert int(guest.call("kernel.queue", disk)["size"]) * 512 == 4 * GiB
    assert_clean(guest, disk)
    guest.call("mounts.mount", disk, PLACE)
    assert guest.call("mounts.digests", PLACE) == expected


@pytest.fixture
def small(serving):
    """A file system of 24 MiB for the layer."""
    with small_folder(serving, SMALL):
        yield serving
        serving.call("disk.detach", 1)


def test_full_backing_disk(small):
    """It is told as such, what was written stays, what is discarded can be written again."""
    disk = attached(small, small.call("writable.create", SMALL, 1))
    full = small.call("writable.write_until_full", disk, "a")
    assert full["errno"] == errno.ENOSPC
    assert 20 << 20 < full["written"] < 24 << 20
    small.expected = ["critical space allocation error", "write failed image="]
    assert set(small.call("writable.letters", disk, full["written"])) == {"a"}
    command = ["blkdiscard", "--offset", "0", "--length", str(12 << 20), f"/dev/{disk}"]
    assert small.call("kernel.command", *command)["status"] == 0
    again = small.call("writable.write_until_full", disk, "b", most=8 << 20)
    assert again == {"written": 8 << 20, "errno": 0}
    shown = small.call("writable.letters", disk, 16 << 20)
    assert shown == "b" * 32 + "-" * 16 + "a" * 16
