# SPDX-License-Identifier: Apache-2.0
"""A range gives what has come of it, whatever becomes of the rest."""

import contextlib
import os
import random

import pytest

from overlaybd_tcmu import units
from overlaybd_tcmu.cache import refill, schedule, store

from ..native import lazy

LARGE = 256 * units.KiB
THIRD = 2 * (2 * LARGE - 4096)  # where on the disk the third unit of the raw layer begins


def open_with_large_units(server, make, disk):
    digest = server.put(lazy.wrapped("raw", disk[1]))
    image = make(cacheConfig={"refillSize": LARGE}).open(digest)
    server.clear()
    return digest, image


def test_reader_has_the_first_of_a_range_before_the_rest_comes(server, make, disk):
    _, image = open_with_large_units(server, make, disk)
    server.fault(stall_after=100_000)
    assert image.pread(4096, THIRD) == disk[0][THIRD:][:4096]
    assert server.registry.in_flight() == 1


def test_what_came_of_a_range_that_breaks_off_counts(server, make, disk):
    digest, image = open_with_large_units(server, make, disk)
    server.fault(cut_after=100_000)
    end = THIRD + 2 * LARGE
    assert image.pread(4096, end - 8192) == disk[0][end - 8192 : end - 4096]
    came = refill.PARTS[schedule.Priority.READ]
    ranges = server.ranges(digest)
    assert (2 * LARGE, LARGE) in ranges and (2 * LARGE + came, LARGE - came) in ranges


# ---- room is made for a large range at once

BLOB = random.Random(6).randbytes(6 * units.MiB)
CAME = 1536 * units.KiB  # of it
SLACK = units.MiB  # what a file system takes for itself


def room_of(path):
    return os.stat(path).st_blocks * 512


def needs_holes(folder):
    with open(folder / "try", "wb") as file:
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, 2 * SLACK)
        file.flush()
        made = room_of(file.name) >= 2 * SLACK
        os.truncate(file.name, 0)
    if not made:
        pytest.skip("this file system makes no room in advance")


def test_room_for_what_did_not_come_is_given_back(server, make, tmp_path):
    needs_holes(tmp_path)
    lazily = make(cacheConfig={"refillSize": LARGE})
    digest = server.put(BLOB)
    path = lazily.cache.store.folder.data_path(digest)
    with lazily.cache.lease(server.repo_url(), digest, len(BLOB)) as lease:
        entry, want = lease.one, lazily.cache.refill.want
        want(entry, 0, LARGE, 1)  # so that the place is known
        lazy.wait_for(lambda: entry.present() == LARGE)
        server.fault(cut_after=CAME)
        server.fault(status=404, times=None)
        want(entry, 4 * LARGE, 4 * units.MiB, 1)
        lazy.wait_for(lambda: any(lazily.cache.refill.counters.read().failures.values()))
        assert room_of(path) < entry.present() + SLACK
        buffer = bytearray(CAME)
        count = entry.file.copy_into(buffer, 4 * LARGE)
        assert count and buffer[:count] == BLOB[4 * LARGE :][:count]


def test_room_a_killed_process_had_made_is_given_back(tmp_path):
    needs_holes(tmp_path)
    digest = "sha256:" + 64 * "5"
    kept = store.Store(str(tmp_path / "cache"), units.GiB, LARGE)
    one = kept.open(digest, len(BLOB))
    for offset in (LARGE, 4 * LARGE):
        kept.fill(one, memoryview(bytearray(BLOB[offset : offset + LARGE])), offset)
    path = kept.folder.data_path(digest)
    kept.give_back(one)
    kept.close()
    os.sync()
    with open(path, "rb+") as file:
        os.posix_fallocate(file.fileno(), 0, len(BLOB))
    assert room_of(path) >= len(BLOB)
    kept = store.Store(str(tmp_path / "cache"), units.GiB, LARGE)
    assert room_of(path) < 2 * LARGE + SLACK
    assert 2 * LARGE <= kept.room.used() < 2 * LARGE + SLACK
    one = kept.open(digest, len(BLOB))
    assert one.recover(0, len(BLOB)) == 2 * LARGE
    buffer = bytearray(LARGE)
    assert one.file.copy_into(buffer, 4 * LARGE) == LARGE
    assert buffer == BLOB[4 * LARGE :][:LARGE]
    kept.give_back(one)
    kept.close()
