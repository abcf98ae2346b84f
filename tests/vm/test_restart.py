# SPDX-License-Identifier: Apache-2.0
"""The daemon dies, is stopped, is started again; what is mounted lives on."""
import signal

import pytest

from . import images

STACK = images.STACKS["lz4-4k"]
PLACE = "/mnt/image"
PATIENCE = 1000  # rounds: an emulated CPU that has other things to do


@pytest.fixture
def mounted(guest):
    """A running daemon and a mounted image, nothing of it in the page cache."""
    guest.call("service.start")
    disk = guest.call("disk.attach", 1, STACK.config_path)["disk"]
    guest.call("mounts.mount", disk, PLACE)
    guest.call("mounts.drop_caches")
    return guest


def assert_tree_is_right(guest):
    found = guest.call("mounts.difference", PLACE, STACK.manifest)
    assert found["lines"] == []
    assert found["count"] == len(STACK.manifest)


def assert_read_waits_for_a_daemon(guest, path):
    guest.call("reads.start_reading", path)
    guest.call("reads.wait_blocked", path)
    started = guest.call("service.start")
    outcome = guest.call("reads.finish_reading", path)
    assert outcome["sha256"] == STACK.sha256_of[path[len(PLACE) + 1 :]]
    print(f"ready {started['seconds']:.2f} s after start, read took {outcome['seconds']:.2f} s")


def test_read_during_absence_completes_after_kill(mounted):
    mounted.call("service.kill")
    assert_read_waits_for_a_daemon(mounted, f"{PLACE}/{STACK.largest_file}")
    assert_tree_is_right(mounted)


def test_read_during_absence_completes_after_clean_stop(mounted):
    stopped = mounted.call("service.stop", signal.SIGTERM)
    assert stopped["status"] == 0
    assert_read_waits_for_a_daemon(mounted, f"{PLACE}/{STACK.largest_file}")
    assert_tree_is_right(mounted)


def test_sigint_stops_as_sigterm_does(mounted):
    assert mounted.call("service.stop", signal.SIGINT)["status"] == 0


def test_load_survives_three_kills(mounted):
    disk = mounted.call("disk.disk_of", 1)
    mounted.call("reads.start_comparing", disk, STACK.view_path, seed=7)
    for _ in range(3):
        mounted.call("reads.wait_compared", disk, more=200)
        mounted.call("service.kill")
        mounted.call("service.start")
    mounted.call("reads.wait_compared", disk, more=200)
    assert mounted.call("reads.stop_comparing", disk)["differs_in"] is None
    assert_tree_is_right(mounted)


def test_half_made_and_broken_devices_hold_up_nobody(mounted):
    moving, path = "/root/moving/config.v1.json", STACK.config_path
    mounted.call("files.link", path, moving)
    broken = mounted.call("disk.attach", 2, moving, rounds=PATIENCE)["disk"]
    mounted.call("disk.leave_half_made", 3, path, enabled=False)
    mounted.call("disk.leave_half_made", 4, path, enabled=True)
    mounted.call("service.kill")
    mounted.call("files.unlink", moving)
    mounted.expected = ["moving"]
    mounted.call("service.start")
    assert_tree_is_right(mounted)
    disks = [mounted.call("disk.attach", 3, path, rounds=PATIENCE)["disk"]]
    disks.append(mounted.call("disk.export", 4, rounds=PATIENCE))
    reads = mounted.start("reads.compare_random", broken, STACK.view_path, 2, 5)
    for disk in disks:
        found = mounted.call("reads.compare_random", disk, STACK.view_path, 3, 5)
        assert found["differs_in"] is None
    assert not reads.done
    mounted.call("files.link", path, moving)
    assert reads.result()["differs_in"] is None


def test_second_daemon_is_refused_and_harms_nothing(mounted):
    second = mounted.call("service.run", [])
    assert second["status"] != 0
    assert "another overlaybd-tcmu serves this host" in second["errors"]
    mounted.expected = ["another overlaybd-tcmu serves this host"]
    assert_tree_is_right(mounted)


def test_attach_while_netlink_is_blocked_succeeds_once_a_daemon_starts(guest):
    guest.call("kernel.set_module_parameter", "block_netlink", "1")
    pending = guest.start("disk.attach", 1, STACK.config_path)
    guest.call("service.start")
    assert pending.result()["disk"]
    assert guest.call("kernel.module_parameter", "block_netlink") == "unblocked"
    guest.expected = ["Interface is blocked", "completion could not find device"]
