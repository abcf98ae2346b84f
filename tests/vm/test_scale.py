# SPDX-License-Identifier: Apache-2.0
"""Many devices under systemd: attached at the same moment, idle, and taken over."""
import hashlib
import random

import pytest

from tests.support import layers

from . import images
from .host import CROWD

STORM = 50
DELAY_S = 0.2
MIB = 1 << 20
IMAGE_BYTES = 4 * MIB
OWN_BYTES = 256 << 10
STEP_TIMEOUT_S = 400

DEVICE_RSS = 1 * MIB
DEVICE_THREADS = 2
DEVICE_FILES = 12

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def storm(host, tmp_path, seed):
    """Images of a registry that is slow to answer; their digests in host.digests."""
    generator = random.Random(seed)
    base = generator.randbytes(IMAGE_BYTES)
    layers.write_changes(tmp_path / "shared", b"", base)
    host.digests = []
    for number in range(STORM):
        at = generator.randrange(IMAGE_BYTES - OWN_BYTES) // layers.CLUSTER * layers.CLUSTER
        disk = base[:at] + generator.randbytes(OWN_BYTES) + base[at + OWN_BYTES :]
        layers.write_changes(tmp_path / f"own-{number}", base, disk)
        host.digests.append(hashlib.sha256(disk).hexdigest())
    host.vm.put(tmp_path, "/root/storm")
    own = [f"/root/storm/own-{number}" for number in range(STORM)]
    host.configs = host.call("crowd.start", "/root/storm", "/root/storm/shared", own, DELAY_S)
    yield host
    host.call("registry.stop")


def attach_all(host, configs):
    pairs = [[number, config] for number, config in enumerate(configs, start=1)]
    return host.start("disk.attach_all", pairs).result(STEP_TIMEOUT_S)


def test_storm_of_attaches_from_a_slow_registry(storm):
    took = attach_all(storm, storm.configs)
    fetched = storm.call("registry.fetched")
    at_once = storm.call("crowd.opened_at_once")
    print(
        f"{STORM} images attached in {took['seconds']:.1f} s, the slowest in "
        f"{took['slowest_s']:.1f} s: up to {at_once} were being opened at once, "
        f"{fetched['requests']} requests, each answered after {DELAY_S} s"
    )
    assert at_once > 1, "one after another"
    disks = [storm.call("disk.disk_of", number) for number in range(1, STORM + 1)]
    pending = [storm.start("crowd.digest", disk) for disk in disks]
    assert [one.result(STEP_TIMEOUT_S) for one in pending] == storm.digests


def tell(what, usage, idle):
    more = {key: (usage[key] - idle[key]) / CROWD for key in usage}
    print(
        f"{what}: RSS {usage['rss'] / MIB:.1f} MiB ({more['rss'] / MIB:.2f} a device), "
        f"{usage['threads']} threads ({more['threads']:.2f}), "
        f"{usage['files']} files ({more['files']:.2f})"
    )
    assert more["rss"] < DEVICE_RSS
    assert more["threads"] <= DEVICE_THREADS
    assert more["files"] <= DEVICE_FILES


def test_a_crowd_is_idle_and_taken_over(host):
    host.call("unit.restart")
    idle = host.call("unit.usage")
    stacks = [images.STACKS[name] for name in images.NAMES]
    crowd = [stacks[number % len(stacks)] for number in range(CROWD)]
    took = attach_all(host, [stack.config_path for stack in crowd])
    print(f"{CROWD} attached in {took['seconds']:.1f} s, the slowest in {took['slowest_s']:.1f} s")
    tell(f"{CROWD} idle devices", host.call("unit.usage"), idle)
    read = (1, CROWD // 2, CROWD)
    for number in read:
        disk = host.call("disk.disk_of", number)
        host.call("endure.start_reading", disk, crowd[number - 1].view_path, number)
    for action in ("unit.kill", "unit.restart"):
        host.start(action).result(STEP_TIMEOUT_S)
        stall_s = host.start("endure.wait_read", 20).result(STEP_TIMEOUT_S)
        last = host.call("unit.adoptions")[-1]
        print(
            f"{action}: attaching was blocked for {last['blocked_ms'] / 1000:.2f} s, ready after "
            f"{last['ready_ms'] / 1000:.2f} s, longest stall of a read {stall_s:.2f} s"
        )
        assert (last["count"], host.call("unit.opened_early")) == (CROWD, 0)
        tell("taken over", host.call("unit.usage"), idle)
    assert host.call("endure.stop")["problems"] == []
    compared = [
        host.start("reads.compare_random", host.call("disk.disk_of", n), one.view_path, n, 3)
        for n, one in enumerate(crowd, start=1)
    ]
    assert {one.result(STEP_TIMEOUT_S)["differs_in"] for one in compared} == {None}
