# SPDX-License-Identifier: Apache-2.0
"""
The Debian package under systemd: whatever happens to the service, what is mounted lives on.

Readers compare every read and fio verifies what it writes all the while. How long reads had to wait
is printed: on an emulated CPU, of which the load takes its share, most of it is Python's start.
"make vm-long" does all of it often.
"""
import pytest

from . import images
from .disks import assert_clean
from .host import KILLS, RESTARTS

READ_ONLY = images.STACKS["lz4-4k"]
COMPRESSED = images.STACKS["c-zstd-64k"]
FOLDER = "/root/endure"
TREE = "/mnt/tree"
WRITABLE = "/mnt/writable"
FILE = f"{WRITABLE}/verified"
FILE_BYTES = 8 << 20
CYCLE_TIMEOUT_S = 240
FEW_READS = 20
PATIENCE = 1000  # rounds: an emulated CPU that has other things to do

pytestmark = pytest.mark.timeout(600 + 30 * KILLS)


@pytest.fixture
def loaded(host):
    """Two disks whose every read is compared, a writable one that fio verifies, a mounted tree."""
    host.call("files.remove", FOLDER)
    disks = [
        host.call("disk.attach", number, stack.config_path, rounds=PATIENCE)["disk"]
        for number, stack in enumerate((READ_ONLY, COMPRESSED), start=1)
    ]
    host.call("mounts.mount", disks[0], TREE)
    host.call("endure.start_reading", disks[0], READ_ONLY.view_path, 1)
    host.call("endure.start_reading", disks[1], COMPRESSED.view_path, 2)
    config = host.call("writable.create", FOLDER, 1)
    host.written = host.call("disk.attach", 3, config, rounds=PATIENCE)["disk"]
    host.call("writable.mkfs", host.written)
    host.call("mounts.mount", host.written, WRITABLE, read_only=False)
    host.call("endure.start_writing", FILE, FILE_BYTES, 1)
    host.call("endure.wait_read", FEW_READS)
    return host


def repeat(host, name, *arguments):
    """Does it under load; the longest that a read has waited, in seconds."""
    host.start(name, *arguments).result(CYCLE_TIMEOUT_S)
    return host.start("endure.wait_read", FEW_READS).result(CYCLE_TIMEOUT_S)


def tell(what, stalls):
    ordered = sorted(stalls)
    marks = [("min", 0), ("median", 50), ("p90", 90), ("max", 100)]
    said = [f"{name} {ordered[(len(ordered) - 1) * share // 100]:.2f}" for name, share in marks]
    print(f"{len(stalls)} x {what}: longest stall of a read, s: {', '.join(said)}")


def assert_nothing_was_lost(host):
    ended = host.start("endure.stop").result(CYCLE_TIMEOUT_S)
    print(f"{ended['reads']} reads compared, {ended['rounds']} rounds of fio verified")
    assert ended["problems"] == []
    assert ended["rounds"] > 0
    host.call("mounts.drop_caches")
    assert host.call("mounts.difference", TREE, READ_ONLY.manifest)["lines"] == []
    host.call("mounts.unmount", WRITABLE)
    assert_clean(host, host.written)


def test_it_is_what_the_readme_says(host):
    found = host.call("unit.show", "Type", "ActiveState", "UnitFileState", "FragmentPath")
    assert found["Type"] == "notify"
    assert (found["ActiveState"], found["UnitFileState"]) == ("active", "enabled")
    assert host.call("unit.version").endswith(" installed")


def test_killed_again_and_again(loaded):
    pids = {loaded.call("unit.pid")}
    stalls = []
    for _ in range(KILLS):
        stalls.append(repeat(loaded, "unit.kill"))
        pids.add(loaded.call("unit.pid"))
    tell("kill -9", stalls)
    assert len(pids) == KILLS + 1
    assert_nothing_was_lost(loaded)


def test_upgraded_again_and_again(loaded):
    stalls = []
    for package in loaded.followers:
        before = loaded.call("unit.pid")
        stalls.append(repeat(loaded, "unit.upgrade", package))
        assert loaded.call("unit.pid") != before
    tell("package upgrade", stalls)
    number = loaded.followers[-1].rpartition("-")[2].rpartition(".")[0]
    assert loaded.call("unit.version").endswith(f"+{int(number)} installed")
    assert_nothing_was_lost(loaded)


def test_restarted_by_systemctl(loaded):
    stalls = [repeat(loaded, "unit.restart") for _ in range(RESTARTS)]
    tell("systemctl restart", stalls)
    assert_nothing_was_lost(loaded)
