# SPDX-License-Identifier: Apache-2.0
"""A range gives what has come of it, whatever becomes of the rest."""

from overlaybd_tcmu import units
from overlaybd_tcmu.cache import refill, schedule

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
