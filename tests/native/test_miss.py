# SPDX-License-Identifier: Apache-2.0
"""Images whose layers are fetched as they are read: every byte is right, nobody waits for ever."""

import concurrent.futures
import errno
import time

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import cachefile, native

from . import lazy
from . import raw_layers as raw


def units_of(origin, number):
    return {offset for file, offset in origin.fetched if file == number}


# ---- the bytes


@pytest.mark.parametrize("kind", lazy.KINDS)
@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_every_byte_is_right_and_fetched_once(origin, disk, kind, helpers):
    content, stream = disk
    with origin.image(lazy.wrapped(kind, stream), helpers=helpers) as image:
        lazy.read_all(image, content)
        lazy.read_all(image, content, 1 << 20)
    assert set(origin.fetched.values()) == {1}


def test_opening_fetches_only_its_ends(origin, disk):
    origin.image(lazy.wrapped("lz4", disk[1])).close()
    assert len(origin.fetched) < len(origin.blobs[1]) // lazy.UNIT // 4


@pytest.mark.parametrize("kind", lazy.KINDS)
def test_64_random_readers_fetch_each_unit_once(origin, disk, kind, rng):
    content, stream = disk
    seeds = [rng.random() for _ in range(64)]
    with origin.image(lazy.wrapped(kind, stream), helpers=1) as image:
        lazy.in_threads(64, lambda n: lazy.read_randomly(image, content, type(rng)(seeds[n]), 20))
    assert set(origin.fetched.values()) == {1}


def test_stacked_layers_are_each_fetched(origin, disk, rng):
    content, stream = disk
    upper = raw.lsmt(b"U" * 4096, raw.entry(4, 8, 8), virtual_size=len(content))
    with origin.image(lazy.wrapped("lz4", stream), upper) as image:
        assert image.pread(8192, 0) == content[:2048] + b"U" * 4096 + content[6144:8192]
    assert units_of(origin, 1) and units_of(origin, 2)


def test_local_layer_below_a_lazy_one(origin, disk, tmp_path):
    content, stream = disk
    (tmp_path / "local").write_bytes(stream)
    upper = raw.lsmt(b"U" * 4096, raw.entry(4, 8, 8), virtual_size=len(content))
    file = origin.add(upper)
    layers = [native.Layer.open(str(tmp_path / "local")), native.Layer(file.blob(10000))]
    with native.Image(layers) as image:
        assert image.pread(8192, 0) == content[:2048] + b"U" * 4096 + content[6144:8192]


@pytest.mark.parametrize("engine", [native.Engine.LIBAIO, native.Engine.POSIX_AIO])
def test_other_engines_give_way(origin, disk, engine):
    content, stream = disk
    with origin.image(stream, engine=engine) as image:
        assert image.info().engine == native.Engine.PSYNC
        assert image.pread(4096, 0) == content[:4096]


def test_all_that_a_long_read_lacks_is_asked_for_at_once(origin, disk):
    with origin.image(disk[1], helpers=1) as image:
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            future = executor.submit(image.pread, 1 << 20, 1 << 19)
            lazy.wait_for(lambda: cachefile.parked(image)[0] >= 8)
            origin.open.set()
            assert future.result() == disk[0][1 << 19 : 3 << 19]
        assert set(origin.fetched.values()) == {1}


# ---- those who wait


def test_hit_is_served_while_another_read_waits(origin, disk):
    content, stream = disk
    with origin.image(stream) as image:
        image.pread(4096, 0)
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            future = executor.submit(image.pread, 4096, 1 << 20)
            lazy.wait_for(lambda: cachefile.parked(image)[0] == 1)
            assert image.pread(4096, 0) == content[:4096]
            assert not future.done()
            origin.open.set()
            assert future.result() == content[1 << 20 :][:4096]


def test_one_unit_is_fetched_for_all_who_wait_for_it(origin, disk):
    content, stream = disk
    with origin.image(stream) as image:
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(32) as executor:
            futures = [executor.submit(image.pread, 4096, 1 << 20) for _ in range(32)]
            lazy.wait_for(lambda: cachefile.parked(image)[0] == 32)
            assert origin.misses.parked() == 32
            origin.open.set()
            for future in futures:
                assert future.result() == content[1 << 20 :][:4096]
    assert set(origin.fetched.values()) == {1}


def test_reader_that_fails_gets_the_errno_and_the_next_one_its_bytes(origin, disk):
    content, stream = disk
    with native.Events() as events, origin.image(stream, events=events, name="it") as image:
        origin.error = errno.EHOSTUNREACH
        with pytest.raises(errors.NativeError) as caught:
            image.pread(4096, 1 << 20)
        assert caught.value.code == errno.EHOSTUNREACH
        event = events.next(0)
        assert (event.kind, event.image) == (native.EventKind.READ_ERROR, "it")
        assert "blob1: not to be had from the registry" in event.text
        origin.error = 0
        assert image.pread(4096, 1 << 20) == content[1 << 20 :][:4096]
        assert image.stats().errors == 1


def test_settling_without_the_bytes_asks_again(tmp_path, disk):
    content, stream = disk
    with cachefile.Misses(lazy.UNIT) as misses:
        with cachefile.CacheFile(misses, str(tmp_path / "blob"), len(stream), 1) as file:
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                future = executor.submit(lambda: native.Layer(file.blob()).close())
                for _ in range(3):
                    (miss,) = misses.next()
                    assert (miss.file, miss.offset, miss.count) == (1, 0, lazy.UNIT)
                    assert misses.next(0) is None
                    file.settle(miss.offset, miss.count)
                while not future.done():
                    for miss in misses.next(10) or ():
                        part = bytearray(stream[miss.offset : miss.offset + miss.count])
                        file.fill(part, miss.offset)
                        file.settle(miss.offset, miss.count)
                future.result()


def test_call_wakes_one_of_those_who_wait():
    with cachefile.Misses(lazy.UNIT) as misses, concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(misses.next, 60_000) for _ in range(2)]
        lazy.wait_for(lambda: misses.takers() == 2)
        assert misses.call()
        assert misses.takers() == 1
        done, left = concurrent.futures.wait(futures, 60, concurrent.futures.FIRST_COMPLETED)
        assert [one.result() for one in done] == [[]]
        assert misses.call()
        assert left.pop().result(60) == []
        assert misses.takers() == 0


def test_call_stays_for_who_comes_next():
    """Who has just seen that there is nothing to do, and does not wait yet; once, however many."""
    with cachefile.Misses(lazy.UNIT) as misses:
        assert not misses.call() and not misses.call()
        assert misses.next(60_000) == []
        assert misses.next(1) is None


def test_each_miss_goes_to_one_of_several_threads(tmp_path, disk, rng):
    content, stream = disk
    seeds = [rng.random() for _ in range(16)]
    with lazy.Origin(tmp_path, takers=3) as origin, origin.image(stream, helpers=1) as image:
        lazy.in_threads(16, lambda n: lazy.read_randomly(image, content, type(rng)(seeds[n]), 20))
        assert set(origin.fetched.values()) == {1}


def test_neighbours_are_reported_together(tmp_path):
    with cachefile.Misses(lazy.UNIT) as misses:
        stream = raw.lsmt(b"A" * 10 * lazy.UNIT, raw.entry(0, 320, 8))
        with cachefile.CacheFile(misses, str(tmp_path / "blob"), len(stream), 1) as file:
            file.fill(bytearray(stream), 0)
            image = native.Image([native.Layer(file.blob())])
            file.evict(0, len(stream))
            with concurrent.futures.ThreadPoolExecutor(1) as executor, image:
                future = executor.submit(image.pread, 5 * lazy.UNIT, 0)
                (miss,) = misses.next()
                assert (miss.offset, miss.count) == (0, 6 * lazy.UNIT)
                file.fill(bytearray(stream), 0)
                assert future.result() == b"A" * 5 * lazy.UNIT


# ---- opening


def test_opening_gives_up_after_its_time(origin, disk):
    origin.open.clear()
    file = origin.add(disk[1])
    started = time.monotonic()
    with pytest.raises(errors.NativeError) as caught:
        native.Layer(file.blob(timeout_ms=50))
    assert caught.value.code == errno.ETIMEDOUT
    assert time.monotonic() - started >= 0.05


def test_opening_can_be_cancelled(origin, disk):
    origin.open.clear()
    blob = origin.add(disk[1]).blob()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        future = executor.submit(native.Layer, blob)
        lazy.wait_for(lambda: origin.misses.parked() == 1)
        blob.cancel()
        with pytest.raises(errors.NativeError) as caught:
            future.result()
    assert caught.value.code == errno.ECANCELED


def test_cancelling_one_opening_leaves_the_other(origin, disk):
    origin.open.clear()
    file = origin.add(disk[1])
    first, second = file.blob(), file.blob()
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(native.Layer, blob) for blob in (first, second)]
        lazy.wait_for(lambda: origin.misses.parked() == 2)
        first.cancel()
        with pytest.raises(errors.NativeError):
            futures[0].result()
        origin.open.set()
        futures[1].result().close()


def test_opening_that_is_refused_tells_the_errno(origin, disk):
    origin.error = errno.EACCES
    with pytest.raises(errors.NativeError, match="blob1: reading the tar header") as caught:
        origin.image(disk[1])
    assert caught.value.code == errno.EACCES


# ---- devices that go while the registry hangs


def test_cancelled_image_lets_every_reader_go(origin, disk):
    content, stream = disk
    with origin.image(stream, lazy.wrapped("lz4", stream)) as image:
        image.pread(4096, 0)
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as executor:
            futures = [executor.submit(image.pread, 1 << 17, n << 17) for n in range(1, 9)]
            lazy.wait_for(lambda: cachefile.parked(image)[0] >= 8)
            image.cancel(errno.ESHUTDOWN)
            for future in futures:
                with pytest.raises(errors.NativeError) as caught:
                    future.result()
                assert caught.value.code == errno.ESHUTDOWN
        assert image.pread(4096, 0) == content[:4096]
        with pytest.raises(errors.NativeError):
            image.pread(4096, 3 << 19)
        assert cachefile.parked(image) == (0, 0)


def test_cancelled_image_is_not_gone_through_any_further(origin, disk):
    """What of its index is read again may be missing, too."""
    file = origin.add(lazy.wrapped("lz4", disk[1]))
    layer = native.Layer(file.blob(10000), native.Lean.IN_ORDER)
    with native.Image([layer]) as image, concurrent.futures.ThreadPoolExecutor(1) as executor:
        origin.open.clear()
        file.evict(0, file.size)
        future = executor.submit(image.advance)
        lazy.wait_for(lambda: origin.misses.parked() == 1)
        image.cancel(errno.ESHUTDOWN)
        with pytest.raises(errors.NativeError) as caught:
            future.result()
        assert caught.value.code == errno.ECANCELED


def test_cancelling_leaves_the_other_image_of_the_same_file(origin, disk):
    content, stream = disk
    file = origin.add(stream)
    one, two = [native.Image([native.Layer(file.blob())]) for _ in range(2)]
    with one, two, concurrent.futures.ThreadPoolExecutor(2) as executor:
        origin.open.clear()
        futures = [executor.submit(image.pread, 4096, 1 << 20) for image in (one, two)]
        lazy.wait_for(lambda: origin.misses.parked() == 2)
        one.cancel(errno.EIO)
        with pytest.raises(errors.NativeError):
            futures[0].result()
        origin.open.set()
        assert futures[1].result() == content[1 << 20 :][:4096]


def test_only_who_waited_long_enough_expires(origin, disk):
    with origin.image(disk[1]) as image:
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            future = executor.submit(image.pread, 4096, 1 << 20)
            lazy.wait_for(lambda: cachefile.parked(image)[1] >= 20)
            assert cachefile.expire(image, 60000, errno.EIO) == 0
            assert cachefile.expire(image, 20, errno.EIO) == 1
            with pytest.raises(errors.NativeError) as caught:
                future.result()
            assert caught.value.code == errno.EIO


# ---- writable images


@pytest.mark.parametrize("sparse", [False, True])
def test_writes_over_what_is_not_there_yet(origin, disk, tmp_path, sparse):
    """A part of a block is written: a sparse layer needs the rest of it from below first."""
    content, stream = bytearray(disk[0]), disk[1]
    pair = [str(tmp_path / "data"), str(tmp_path / "index")]
    native.create_upper(*pair, len(content), sparse=sparse)
    file = origin.add(lazy.wrapped("lz4", stream))
    with native.Image([native.Layer(file.blob())], upper=native.Upper(*pair)) as image:
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as executor:
            futures = []
            for number in range(8):
                at = (number << 17) + 512
                futures.append(executor.submit(image.pwrite, b"w" * 1024, at))
                content[at : at + 1024] = b"w" * 1024
            origin.open.set()
            assert [future.result() for future in futures] == [1024] * 8
        lazy.read_all(image, bytes(content))
        image.flush()
        assert image.stats().errors == 0


def test_write_that_waits_is_cancelled(origin, disk, tmp_path):
    pair = [str(tmp_path / "data"), str(tmp_path / "index")]
    native.create_upper(*pair, len(disk[0]), sparse=True)
    file = origin.add(lazy.wrapped("lz4", disk[1]))
    upper = native.Upper(*pair)
    with native.Image([native.Layer(file.blob())], upper=upper) as image:
        origin.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            future = executor.submit(image.pwrite, b"w" * 512, 1 << 20)
            lazy.wait_for(lambda: cachefile.parked(image)[0] == 1)
            image.cancel(errno.ECANCELED)
            with pytest.raises(errors.NativeError) as caught:
                future.result()
            assert caught.value.code == errno.ECANCELED
