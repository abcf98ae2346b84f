# SPDX-License-Identifier: Apache-2.0
"""A thousand misses of fifty images at once: all are served, nothing grows without bounds."""

import concurrent.futures
import contextlib
import os
import threading

from overlaybd_tcmu import units
from overlaybd_tcmu.cache import refill, schedule

from ..native import lazy
from ..native import raw_layers as raw

IMAGES, READS = 50, 20


def resident():
    """Bytes of memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thousand_misses_of_fifty_images(server, make, rng):
    lazily = make()
    disk, stream = lazy.stream_of(rng, 8 * 1024)
    blobs = [raw.tar(stream) + bytes(512 * number) for number in range(IMAGES)]
    images = [lazily.open(server.put(blob)) for blob in blobs]
    offsets = [[rng.randrange(0, len(disk) - 4096) for _ in range(READS)] for _ in images]
    files, memory = len(os.listdir("/proc/self/fd")), resident()
    server.delay(0.05)
    server.clear()

    def read(number):
        image, offset = images[number % IMAGES], offsets[number % IMAGES][number // IMAGES]
        assert image.pread(4096, offset) == disk[offset : offset + 4096]

    peak = 0
    with concurrent.futures.ThreadPoolExecutor(IMAGES * READS) as executor:
        futures = [executor.submit(read, number) for number in range(IMAGES * READS)]
        lazily.cache.store.misses.parked()
        for future in futures:
            future.result()
            peak = max(peak, len(os.listdir("/proc/self/fd")) - files)
    assert server.in_flight_max() <= schedule.EACH
    assert threading.active_count() < refill.THREADS + 3 * schedule.EACH + 30
    assert peak <= 4 * schedule.EACH  # both ends of connections are ours here
    # A thousand Python threads are the test's own; what is kept of each is little.
    assert resident() - memory < 150 * units.MiB
    assert all(image.stats().errors == 0 for image in images)


def test_devices_take_turns(server, make, disk):
    """One that wants everything does not keep one that wants a sector waiting."""
    lazily = make(cacheConfig={"refillSize": 4096})
    digests = [server.put(lazy.wrapped(name, disk[1])) for name in ("raw", "tar")]
    greedy, modest = [lazily.open(digest) for digest in digests]
    server.clear()
    server.delay(0.02)
    everybody_waits = threading.Event()
    server.fault(times=None, hold=everybody_waits)
    with concurrent.futures.ThreadPoolExecutor(32) as executor, contextlib.ExitStack() as stack:
        stack.callback(everybody_waits.set)
        # Two units each, and too far from one another to be taken for a stream.
        many = [executor.submit(greedy.pread, 16384, n * 65536) for n in range(1, 32)]
        lazy.wait_for(lambda: server.registry.in_flight() == schedule.EACH)
        few = executor.submit(modest.pread, 512, 1 << 20)
        lazy.wait_for(lambda: lazily.cache.store.misses.parked() == 32)
        everybody_waits.set()
        assert few.result() == disk[0][1 << 20 :][:512]
        assert all(future.result() for future in many)
    requests = [one for one in server.requests("blob") if one.range]
    modestly = min(one.started_s for one in requests if digests[1] in one.path)
    assert sum(one.started_s > modestly for one in requests) > schedule.EACH
