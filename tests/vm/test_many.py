# SPDX-License-Identifier: Apache-2.0
"""Many disks at once, and one that goes while it is read."""
import pytest

from . import images

COUNT = 16
MIB = 1 << 20
IDLE_RSS = 40 * MIB
DEVICE_RSS = 1 * MIB
NUMBERS = range(1, COUNT + 1)


@pytest.fixture
def crowd(guest):
    """Disks of all stacks attached from as many threads; {number: stack} in guest.crowd."""
    guest.memory_idle = guest.call("service.start") and guest.call("service.memory")
    stacks = [images.STACKS[name] for name in images.NAMES]
    guest.crowd = {number: stacks[number % len(stacks)] for number in NUMBERS}
    pairs = [[number, stack.config_path] for number, stack in guest.crowd.items()]
    took = guest.call("disk.attach_all", pairs)
    print(f"{COUNT} disks attached in {took['seconds']:.1f} s, slowest {took['slowest_s']:.1f} s")
    return guest


def test_each_has_its_own_bytes(crowd, seed):
    jobs = [
        [crowd.call("disk.disk_of", number), stack.view_path, seed + number, 40]
        for number, stack in crowd.crowd.items()
    ]
    pending = [crowd.start("reads.compare_random", *job) for job in jobs]
    assert [one.result()["differs_in"] for one in pending] == [None] * COUNT


def test_memory(crowd):
    idle, full = crowd.memory_idle["rss"], crowd.call("service.memory")["rss"]
    device = (full - idle) / COUNT
    print(f"RSS idle {idle / MIB:.1f} MiB, {COUNT} devices {full / MIB:.1f} MiB", end=" ")
    print(f"({device / MIB:.2f} MiB each), {crowd.call('service.threads')} threads")
    assert idle < IDLE_RSS
    assert device < DEVICE_RSS


def test_all_detached_leave_nothing(crowd):
    crowd.call("disk.detach_all", list(NUMBERS))
    assert crowd.call("disk.attached") == []
    left = [
        path for path in crowd.call("service.open_files") if path.startswith(("/root", "/dev/uio"))
    ]
    assert left == []


@pytest.fixture
def pair(guest):
    """Disks 1 and 2 under load, every read compared; their names in guest.disks."""
    guest.call("service.start")
    stack = images.STACKS["zstd-4k"]
    guest.disks = [guest.call("disk.attach", n, stack.config_path)["disk"] for n in (1, 2)]
    for number, disk in enumerate(guest.disks):
        guest.call("reads.start_comparing", disk, stack.view_path, number)
        guest.call("reads.wait_compared", disk, 20)
    guest.expected = [
        f"[{guest.disks[0]}]",
        f"dev {guest.disks[0]},",
    ]  # errors of the gone disk
    return guest


def test_removal_under_load_spares_the_other(pair):
    gone, stays = pair.disks
    pair.call("disk.detach", 1)
    outcome = pair.call("reads.stop_comparing", gone)
    assert outcome["differs_in"] is None
    pair.call("reads.wait_compared", stays, 200)
    assert pair.call("reads.stop_comparing", stays)["differs_in"] is None
    assert pair.call("service.running")


def test_removal_under_fio_spares_the_other(pair):
    gone, stays = pair.disks
    fio = pair.start("load.fio", gone, "randread", "4k", 32, seconds=8)
    pair.call("load.wait_busy", gone)
    pair.call("disk.detach", 1)
    fio.result(30)  # its end is the point: what a read of a gone disk says is the kernel's affair
    pair.call("reads.wait_compared", stays, 200)
    assert pair.call("reads.stop_comparing", stays)["differs_in"] is None
    pair.call("reads.stop_comparing", gone)


def test_same_number_again_after_removal(guest):
    guest.call("service.start")
    for name in ("plain", "c-lz4-64k", "plain"):
        stack = images.STACKS[name]
        disk = guest.call("disk.attach", 1, stack.config_path)["disk"]
        compared = guest.call("reads.compare_random", disk, stack.view_path, 3, 30)
        assert compared["differs_in"] is None
        guest.call("disk.detach", 1)
