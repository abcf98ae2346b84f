# SPDX-License-Identifier: Apache-2.0
"""Images whose layers only a registry has, mounted: what is fetched, and what an outage does."""
import errno
import time

import pytest

from . import images

STACK = images.STACKS["lz4-4k"]
FOLDER = "/root/lazy"
CONFIG = f"{FOLDER}/config.v1.json"
CACHE = "/root/lazy-cache"
PLACE = "/mnt/lazy"
OUTAGE_S = 60
CALLS = 1500  # several times what an attach takes
UNFINISHED = 5  # the status of a daemon that leaves commands in a ring; the next one answers them
DEADLINE_S = 3
PATIENCE_S = 120


@pytest.fixture
def lazy(guest):
    """A registry with the layers, and nothing of them anywhere else."""
    guest.call("files.remove", FOLDER)
    guest.call("files.remove", CACHE)
    said = guest.call(
        "registry.start", [lower["file"] for lower in STACK.config(images.GOLDEN)["lowers"]]
    )
    guest.stored = sum(lower["size"] for lower in said["lowers"])
    guest.call("files.write_json", CONFIG, {**said, "resultFile": f"{FOLDER}/result"})
    yield guest
    guest.call("registry.up")
    if guest.call("disk.attached"):
        guest.call("disk.detach", 1)
    guest.call("registry.stop")


def settings(**more):
    cache = {"cacheType": "file", "cacheDir": CACHE, "cacheSizeGB": 1, "refillSize": 65536}
    return {"cacheConfig": cache, **more}


def attached(guest, **more):
    guest.call("service.start", settings(**more))
    return guest.call("disk.attach", 1, CONFIG)["disk"]


def finished(guest, name, what):
    """The outcome of what goes on in the guest, on however slow a machine."""
    return guest.start(f"reads.{name}", what, PATIENCE_S).result(PATIENCE_S + 10)


def test_files_are_fetched_as_they_are_read(lazy):
    disk = attached(lazy)
    assert lazy.call("service.read", f"{FOLDER}/result") == "success"
    lazy.call("mounts.mount", disk, PLACE)
    mounted = lazy.call("registry.fetched")
    found = lazy.call("mounts.difference", PLACE, STACK.manifest)
    assert found == {"lines": [], "count": len(STACK.manifest)}
    everything = lazy.call("registry.fetched")
    print(
        f"mounted after {mounted['bytes']} of {lazy.stored} bytes: {mounted['requests']} requests"
    )
    assert mounted["bytes"] < everything["bytes"] <= lazy.stored
    assert everything["twice"] == []


def test_what_was_read_needs_no_registry_any_more(lazy):
    disk = attached(lazy)
    reads = ("reads.compare_random", disk, STACK.view_path, 7, 20)
    assert lazy.call(*reads)["differs_in"] is None
    lazy.call("registry.down")
    lazy.call("service.kill")
    lazy.call("service.start", settings())
    assert lazy.call(*reads)["differs_in"] is None


def test_attaching_what_is_cached_takes_no_request_and_few_system_calls(lazy):
    pid = lazy.call("service.start", settings())["pid"]
    lazy.call("disk.attach", 1, CONFIG)
    lazy.call("disk.detach", 1)
    fetched = lazy.call("registry.fetched")
    calls = lazy.call("calls.of_attach", pid, 1, CONFIG)
    assert lazy.call("registry.fetched") == fetched
    print(f"{sum(calls.values())} system calls to attach a disk: {calls}")
    assert not {"connect", "fsync", "fdatasync"} & set(calls)
    locks = sum(calls.get(name, 0) for name in ("futex", "sched_yield"))  # as scheduling has it
    assert sum(calls.values()) - locks < CALLS


def test_reads_wait_out_a_registry_that_is_away(lazy):
    """And the daemon can be restarted meanwhile, as an upgrade does."""
    disk = attached(lazy)
    lazy.call("mounts.mount", disk, PLACE)
    lazy.call("reads.start_comparing", disk, STACK.view_path, 5)
    lazy.call("reads.wait_compared", disk, 5)
    lazy.call("registry.down")
    path = f"{PLACE}/{STACK.largest_file}"
    lazy.call("reads.start_reading", path)
    lazy.call("reads.wait_blocked", path)
    down = time.monotonic()
    time.sleep(OUTAGE_S / 3)
    lazy.expected = ["devices did not finish"]
    assert lazy.call("service.stop")["status"] == UNFINISHED
    lazy.call("service.start", settings())
    time.sleep(max(0, down + OUTAGE_S - time.monotonic()))
    lazy.call("registry.up")
    outcome = finished(lazy, "finish_reading", path)
    assert outcome["sha256"] == STACK.sha256_of[STACK.largest_file]
    assert outcome["seconds"] >= OUTAGE_S
    print(f"the read took {outcome['seconds']:.1f} s, {OUTAGE_S} of them without a registry")
    lazy.call("reads.wait_compared", disk, 20, 50)
    outcome = lazy.call("reads.stop_comparing", disk)
    assert (outcome["differs_in"], outcome["errno"]) == (None, None)


def test_reads_fail_in_time_where_that_is_the_policy(lazy):
    """And then the device can go, which it cannot while a command has no answer."""
    disk = attached(lazy, outageConfig={"onOutage": "eio", "deadline": DEADLINE_S})
    lazy.expected = ["reads failed after", "read failed", "reading directory"]
    lazy.expected += [f"dev {disk},", f"[{disk}]"]
    lazy.call("mounts.mount", disk, PLACE)
    lazy.call("registry.down")
    path = f"{PLACE}/{STACK.largest_file}"
    lazy.call("reads.start_reading", path)
    assert finished(lazy, "finish_reading", path)["errno"] == errno.EIO
    lazy.call("registry.up")
    assert lazy.call("reads.compare_random", disk, STACK.view_path, 9, 20)["differs_in"] is None
    lazy.call("mounts.unmount", PLACE)
    lazy.call("registry.down")
    lazy.call("reads.start_comparing", disk, STACK.view_path, 5)
    lazy.start("disk.detach", 1).result(PATIENCE_S)
    assert finished(lazy, "finish_comparing", disk)["differs_in"] is None


def test_a_device_goes_when_the_reads_that_wait_have_their_answer(lazy):
    disk = attached(lazy)
    lazy.call("registry.down")
    lazy.expected = [f"dev {disk},", f"[{disk}]"]
    lazy.call("reads.start_comparing", disk, STACK.view_path, 5)
    lazy.call("reads.wait_blocked", disk)
    going = lazy.start("disk.detach", 1)
    time.sleep(1)  # so that it waits, too
    lazy.call("registry.up")
    going.result(PATIENCE_S)
    assert finished(lazy, "finish_comparing", disk)["differs_in"] is None
