# SPDX-License-Identifier: Apache-2.0
"""Lazily fetched layers when bits flip, disks fill up, room goes, or a local copy appears."""

import concurrent.futures
import errno
import threading
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import cachefile, native

from . import lazy
from . import raw_layers as raw

GRANULE = cachefile.GRANULE


@pytest.fixture(autouse=True, params=["never", "always"])
def in_place(request, monkeypatch):
    """Everything once by system calls, and once in the page cache where it lies."""
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", request.param)
    return request.param == "always"


# ---- damage


def damaged(kind, disk):
    """A blob, and an offset in the middle of its data."""
    blob = lazy.wrapped(kind, disk[1])
    return blob, len(blob) // 2


@pytest.mark.parametrize("kind", ["lz4", "zstd-tar"])
def test_bad_block_is_fetched_again(origin, disk, kind):
    blob, at = damaged(kind, disk)
    origin.spoil[1, at] = 1
    with native.Events() as events, origin.image(blob, events=events) as image:
        lazy.read_all(image, disk[0])
        assert image.stats().errors == 0
        assert "fetched again: " in events.next(0).text
    assert sorted(origin.fetched.values())[-2:] == [1, 2]


def test_block_that_stays_bad_is_an_error_and_heals_later(origin, disk):
    content = disk[0]
    blob, at = damaged("lz4", disk)
    origin.spoil[1, at] = 2
    with origin.image(blob) as image:
        failures = 0
        for offset in range(0, len(content), 65536):
            try:
                assert image.pread(65536, offset) == content[offset : offset + 65536]
            except errors.NativeError as error:
                assert error.code == errno.EUCLEAN
                failures += 1
        assert failures == 1
        lazy.read_all(image, content)


def test_bits_that_flip_in_the_cache_are_mended_time_and_again(origin, disk, tmp_path):
    content = disk[0]
    blob, at = damaged("lz4", disk)
    with origin.image(blob) as image:
        lazy.read_all(image, content)
        for _ in range(3):
            with open(tmp_path / "blob1", "r+b") as file:
                file.seek(at)
                file.write(bytes([blob[at] ^ 1]))
            lazy.read_all(image, content)
        assert image.stats().errors == 0


def test_file_that_was_cut_is_fetched_again(origin, disk, tmp_path):
    with origin.image(disk[1]) as image:
        lazy.read_all(image, disk[0])
        with open(tmp_path / "blob1", "r+b") as file:
            file.truncate(100000)
        lazy.read_all(image, disk[0])
        assert image.stats().errors == 0


def test_file_that_was_deleted_serves_on(origin, disk, tmp_path):
    with origin.image(disk[1]) as image:
        image.pread(4096, 0)
        (tmp_path / "blob1").unlink()
        lazy.read_all(image, disk[0])


# ---- no room


def test_full_disk_serves_from_memory(origin, disk, rng):
    content, stream = disk
    with origin.image(lazy.wrapped("lz4", stream), helpers=1) as image:
        lazy.read_randomly(image, content, rng, 10)
        origin.full = True
        lazy.read_all(image, content)
        lazy.read_randomly(image, content, rng)
    assert set(origin.fetched.values()) == {1}


def test_range_partly_in_the_file_and_partly_in_memory(tmp_path, disk):
    content, stream = disk
    with cachefile.Misses(lazy.UNIT) as misses:
        with cachefile.CacheFile(misses, str(tmp_path / "blob"), len(stream), 1) as file:
            file.fill(bytearray(stream), 0)
            with native.Image([native.Layer(file.blob())]) as image:
                for granule in range(0, len(stream), 3 * GRANULE):
                    part = bytearray(stream[granule : granule + GRANULE])
                    file.evict(granule, len(part))
                    file.spill(part, granule)
                lazy.read_all(image, content)
                file.unspill(0, len(stream))
                assert file.next_gap(0) == (0, GRANULE)


# ---- read-ahead's trip wire, and what is in use


def test_marked_unit_is_reported_once(origin, disk):
    with origin.image(disk[1]) as image:
        lazy.read_all(image, disk[0])
        origin.files[1].mark(10 * lazy.UNIT)
        lazy.read_all(image, disk[0])
        lazy.wait_for(lambda: origin.hints)
        lazy.read_all(image, disk[0])
        assert origin.hints == [(1, 10 * lazy.UNIT)]


def test_heat_is_the_epoch_of_the_last_read(origin, disk):
    with origin.image(disk[1]) as image:
        origin.misses.set_epoch(5)
        lazy.read_all(image, disk[0])
        origin.misses.set_epoch(7)
        image.pread(512, 0)
        heat = origin.files[1].heat(0, 8)
    assert heat[0] == 7
    assert set(heat[1:]) == {5}


# ---- all at once


def test_evictions_under_readers_never_show(origin, disk):
    """The end of what is being read goes while it is read: zeros would show within milliseconds."""
    content, stream = disk
    count, stop = 64 * 1024, threading.Event()

    def evict():
        while not stop.is_set():
            origin.files[1].evict(8 * GRANULE, GRANULE)
            while origin.files[1].next_gap(0)[0] == 8 * GRANULE and not stop.is_set():
                time.sleep(0)

    with origin.image(stream, helpers=1) as image:
        image.pread(count, 0)
        evictor = threading.Thread(target=evict)
        evictor.start()
        try:
            for _ in range(1500):
                assert image.pread(count, 0) == content[:count]
        finally:
            stop.set()
            evictor.join()
        assert sum(origin.fetched.values()) > 10


def test_readers_do_not_notice_the_switch_to_a_local_copy(origin, disk, rng, tmp_path):
    content, stream = disk
    blob = lazy.wrapped("lz4", stream)
    (tmp_path / "whole").write_bytes(blob)
    seeds = [rng.random() for _ in range(4)]
    with origin.image(blob, helpers=1) as image:

        def work(number):
            lazy.read_randomly(image, content, type(rng)(seeds[number]), 40)
            if number == 0:
                origin.files[1].switch(str(tmp_path / "whole"))
            lazy.read_randomly(image, content, type(rng)(seeds[number]), 40)

        lazy.in_threads(4, work)
        assert image.stats().errors == 0
        origin.error = errno.EIO  # nothing is asked for any more
        lazy.read_all(image, content)


def test_switch_serves_those_who_wait(origin, disk, tmp_path):
    content, stream = disk
    (tmp_path / "whole").write_bytes(stream)
    with origin.image(stream) as image:
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            future = executor.submit(image.pread, 4096, 1 << 20)
            lazy.wait_for(lambda: cachefile.parked(image)[0] == 1)
            origin.files[1].switch(str(tmp_path / "whole"))
            assert future.result() == content[1 << 20 :][:4096]


def test_damage_of_a_whole_copy_is_an_error(origin, disk, tmp_path):
    """As with any local layer: nobody can fetch it again piece by piece."""
    blob, at = damaged("lz4", disk)
    (tmp_path / "whole").write_bytes(raw.patched(blob, at, "B", blob[at] ^ 1))
    with origin.image(blob) as image:
        origin.files[1].switch(str(tmp_path / "whole"))
        with pytest.raises(errors.NativeError) as caught:
            lazy.read_all(image, disk[0])
        assert caught.value.code == errno.EUCLEAN


# ---- in place


def test_what_is_cached_is_read_in_place_before_and_after_the_switch(
    origin, disk, tmp_path, in_place
):
    blob = lazy.wrapped("lz4", disk[1])
    (tmp_path / "whole").write_bytes(blob)
    with origin.image(blob) as image:
        lazy.read_all(image, disk[0])
        before = image.stats().in_place
        lazy.read_all(image, disk[0])
        cached = image.stats().in_place - before
        origin.files[1].switch(str(tmp_path / "whole"))
        lazy.read_all(image, disk[0])
        switched = image.stats().in_place - before - cached
    assert (cached > 0, switched > 0) == ((True, True) if in_place else (False, False))


def test_switch_gives_the_room_back_though_it_is_mapped(origin, disk, tmp_path):
    (tmp_path / "whole").write_bytes(disk[1])
    with origin.image(disk[1]) as image:
        lazy.read_all(image, disk[0])
        origin.files[1].switch(str(tmp_path / "whole"))
        assert (tmp_path / "blob1").stat().st_blocks == 0
        lazy.read_all(image, disk[0])
