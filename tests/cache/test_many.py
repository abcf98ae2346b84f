# SPDX-License-Identifier: Apache-2.0
"""A thousand misses of fifty images at once: all are served, nothing grows without bounds."""

import concurrent.futures
import contextlib
import os
import threading

from overlaybd_tcmu import units
from overlaybd_tcmu.cache import refill, schedule
from overlaybd_tcmu.registry import client

from ..native import lazy
from ..native import raw_layers as raw
from ..support import fault_registry
from ..support.lazy_service import UNIT

IMAGES, READS = 50, 20
DONE = concurrent.futures.Future.done


def resident():
    """Bytes of memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_thousand_misses_of_fifty_images(server, make, rng):
    """All of them wait at the same time: the registry gives nothing until they do."""
    lazily = make()
    disk, stream = lazy.stream_of(rng, 8 * 1024)
    blobs = [raw.tar(stream) + bytes(512 * number) for number in range(IMAGES)]
    images = [lazily.open(server.put(blob)) for blob in blobs]
    offsets = [[rng.randrange(0, len(disk) - 4096) for _ in range(READS)] for _ in images]
    misses = lazily.cache.store.misses
    begin, answer = threading.Event(), threading.Event()
    server.fault(times=None, hold=answer)

    def read(number):
        image, offset = images[number % IMAGES], offsets[number % IMAGES][number // IMAGES]
        begin.wait()
        assert image.pread(4096, offset) == disk[offset : offset + 4096]

    with concurrent.futures.ThreadPoolExecutor(IMAGES * READS) as executor:
        try:
            futures = [executor.submit(read, number) for number in range(IMAGES * READS)]
            files, memory = open_files(), resident()  # a thousand threads are the test's own
            begin.set()
            lazy.wait_for(lambda: misses.parked() + sum(map(DONE, futures)) == len(futures))
            lazy.wait_for(lambda: server.registry.in_flight() == schedule.EACH)
            waiting, files, memory = misses.parked(), open_files() - files, resident() - memory
            threads = threading.active_count() - len(futures)
        finally:
            begin.set()
            answer.set()
        for future in futures:
            future.result()
    assert waiting > 0.8 * IMAGES * READS  # the others found what opening had fetched
    assert server.in_flight_max() <= schedule.EACH
    assert threads < refill.THREADS + 3 * schedule.EACH + 30
    assert files <= 4 * schedule.EACH  # both ends of connections are ours here
    assert memory < 64 * units.MiB
    assert all(image.stats().errors == 0 for image in images)


def fetching():
    return sum(thread.name == "fetch" for thread in threading.enumerate())


def test_threads_that_have_nothing_to_do_end(server, make, disk, monkeypatch):
    monkeypatch.setattr(refill, "IDLE_S", 0.3)
    monkeypatch.setattr(refill, "TICK_S", 0.1)
    image = make(cacheConfig={"refillSize": 4096}).open(server.put(disk[1]))
    server.delay(0.05)
    with concurrent.futures.ThreadPoolExecutor(12) as executor:
        reads = [executor.submit(image.pread, 512, n * 65536) for n in range(12)]
        lazy.wait_for(lambda: fetching() > refill.SPARE)
        assert [one.result() for one in reads] == [disk[0][n * 65536 :][:512] for n in range(12)]
    lazy.wait_for(lambda: fetching() == refill.SPARE)
    assert image.pread(512, 20 * 98304) == disk[0][20 * 98304 :][:512]


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


def test_fifty_images_open_while_their_registry_is_slow(server, make, disk):
    """
    No storm; and who opens from another registry meanwhile does not wait for it, though one of the
    fifty has the same layer.
    """
    lazily = make()
    blob = lazy.wrapped("tar", disk[1])
    digests = [server.put(blob + bytes(512 * number)) for number in range(IMAGES)]
    answer = threading.Event()
    server.fault(times=None, hold=answer)
    with fault_registry.FaultRegistry() as other:
        with concurrent.futures.ThreadPoolExecutor(IMAGES) as executor:
            try:
                futures = [executor.submit(lazily.open, digest) for digest in digests]
                lazy.wait_for(lambda: server.registry.in_flight() == client.EACH)
                image = lazily.open(other.put(blob), repoBlobUrl=other.repo_url())
                lazy.read_all(image, disk[0])
                assert not any(map(DONE, futures))
            finally:
                answer.set()
            for future in futures:
                future.result()
    assert server.in_flight_max() == client.EACH
    assert len(server.requests()) <= 4 * IMAGES  # its size, its beginning, two units at its end


def test_registries_that_hang_do_not_hold_up_another(server, make, disk):
    """Each has all the requests that it may have."""
    lazily = make()
    answer = threading.Event()
    blob = lazy.wrapped("tar", disk[1])
    with contextlib.ExitStack() as stack:
        hanging = [stack.enter_context(fault_registry.FaultRegistry()) for _ in range(3)]
        images = [lazily.open(one.put(blob + bytes(512 * number)), repoBlobUrl=one.repo_url())
                  for number, one in enumerate(hanging, 1)]  # fmt: skip
        image = lazily.open(server.put(blob))
        for one in hanging:
            one.fault(times=None, hold=answer)
        reads = 2 * schedule.EACH
        executor = stack.enter_context(concurrent.futures.ThreadPoolExecutor(3 * reads))
        stack.callback(answer.set)
        for one in images:
            for number in range(reads):
                executor.submit(one.pread, 512, number * 4 * UNIT)
        lazy.wait_for(lambda: lazily.cache.store.misses.parked() >= 3 * (reads - 4))
        lazy.read_all(image, disk[0], 1 << 18)
        assert lazily.cache.refill.counters.read().failures["timeout"] == 0  # nobody gave up
