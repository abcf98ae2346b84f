# SPDX-License-Identifier: Apache-2.0
"""What writable layers take, on the disk and in memory, and what they give back."""

import os
import threading
import time

import pytest

from overlaybd_tcmu import units
from overlaybd_tcmu.ffi import native

from ..support import native_test
from .upper_disk import SIZE, Disk

SECTOR = 512


@pytest.fixture(params=["append", "sparse"])
def sparse(request):
    return request.param == "sparse"


def test_discard_of_an_empty_disk_leaves_nothing(tmp_path, sparse):
    """mkfs does that first."""
    pair = str(tmp_path / "d"), str(tmp_path / "i")
    native.create_upper(*pair, 64 * units.GiB, sparse)
    with native.Image([], upper=native.Upper(*pair)) as image:
        image.discard(0, 64 * units.GiB)
        image.pwrite(b"x" * 4096, 40 * units.GiB)
        image.discard(0, 64 * units.GiB)
        image.flush()
        assert image.pread(4096, 40 * units.GiB) == bytes(4096)
    assert os.stat(pair[0]).st_blocks * SECTOR < 64 * units.KiB
    assert os.stat(pair[1]).st_size <= 4096 + 64


def used(path):
    return os.stat(path).st_blocks * SECTOR


def test_discarded_space_is_given_back_when_it_is_closed(tmp_path, sparse):
    with Disk(tmp_path, sparse) as disk:
        disk.write(b"x" * (1 << 20), 0)
        disk.write(b"y" * (64 << 10), 1 << 20)
        disk.discard(0, 1 << 20)
        disk.image.close()
        assert used(disk.pair[0]) < 128 << 10
        disk.open()
        disk.check()


def test_overwritten_space_is_given_back(tmp_path):
    with Disk(tmp_path, False) as disk:
        for _ in range(5):
            disk.write(os.urandom(SIZE), 0)
        assert os.stat(disk.pair[0]).st_size == 4096 + 5 * SIZE
        disk.image.close()
        assert used(disk.pair[0]) < SIZE + (64 << 10)
        disk.open()
        disk.check()


def test_space_of_small_writes_is_given_back_when_they_are_neighbours(tmp_path):
    with Disk(tmp_path, False) as disk:
        for _ in range(2):
            for offset in range(0, 256 << 10, 4096):
                disk.write(os.urandom(4096), offset)
        disk.image.close()
        assert used(disk.pair[0]) < (256 << 10) + (64 << 10)
        disk.open()
        disk.check()


def test_space_is_given_back_while_it_is_written_to(tmp_path):
    """With every 16 MiB of garbage a flush looks for holes."""
    with Disk(tmp_path, False) as disk:
        for number in range(24):
            disk.write(bytes([number + 1]) * SIZE, 0)
            disk.image.flush()
        assert used(disk.pair[0]) <= 20 << 20
        disk.check()


def test_readers_never_see_a_hole(tmp_path):
    """What is overwritten, flushed and punched while it is read shows the old or the new."""
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            data = disk.image.pread(SIZE, 0)
            seen.append({data[at] for at in range(0, SIZE, SECTOR)})

    with Disk(tmp_path, False) as disk:
        disk.write(b"\1" * SIZE, 0)
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(2, 42):
            disk.write(bytes([number]) * SIZE, 0)
            disk.image.flush()
        stop.set()
        for thread in threads:
            thread.join()
    assert seen and all(0 not in values for values in seen)


def test_memory_follows_what_is_written(tmp_path, rng):
    with Disk(tmp_path, False) as disk:
        for offset in range(0, SIZE, 4096):
            disk.write(b"x" * 512, offset)
        disk.image.close()
        with native.Upper(*disk.pair) as upper:
            info = upper.info()
        assert info.segments == SIZE // 4096 and info.mapped == SIZE // 8
        assert info.memory < 64 << 10
        disk.open()


@pytest.fixture
def compacting():
    native_test.upper_compact(64)
    yield
    native_test.upper_compact(0)


def header_of(index):
    """What an index file says of the layer."""
    with open(index, "rb") as file:
        return file.read(390)


def test_index_file_stays_as_long_as_it_needs_to_be(tmp_path, rng, compacting):
    """What is overwritten for ever makes it no longer; to everybody else it is the same file."""
    with Disk(tmp_path, False) as disk:
        os.chmod(disk.pair[1], 0o640)
        before = header_of(disk.pair[1])
        for _ in range(20):
            for _ in range(100):
                disk.write(rng.randbytes(4096), rng.randrange(8) * 4096)
            disk.image.flush()
            disk.check()
        disk.image.close()
        assert os.stat(disk.pair[1]).st_size <= 4096 + 16 * 108
        assert os.stat(disk.pair[1]).st_mode & 0o777 == 0o640
        assert header_of(disk.pair[1]) == before
        assert sorted(os.listdir(tmp_path)) == ["data0", "index0"]
        disk.open()
        disk.check()


def test_index_file_is_compacted_when_it_is_opened(tmp_path):
    with Disk(tmp_path, False) as disk:
        for number in range(200):
            disk.write(bytes([number]) * 4096, 0)
        disk.image.close()
        assert os.stat(disk.pair[1]).st_size == 4096 + 16 * 200
        native_test.upper_compact(64)
        disk.open()
        native_test.upper_compact(0)
        disk.image.close()
        assert os.stat(disk.pair[1]).st_size == 4096 + 16
        disk.open()
        disk.check()


def test_index_file_that_was_moved_away_is_not_replaced(tmp_path, compacting):
    with Disk(tmp_path, False) as disk:
        os.rename(disk.pair[1], tmp_path / "elsewhere")
        for number in range(200):
            disk.write(bytes([number]) * 4096, 0)
        disk.image.flush()
        disk.check()
        disk.image.close()
        assert os.listdir(tmp_path).count("index0") == 0
        os.rename(tmp_path / "elsewhere", disk.pair[1])
        disk.open()
        disk.check()


@pytest.fixture
def short_timer():
    native_test.upper_timer(50)
    yield
    native_test.upper_timer(0)


def confirmed(index):
    """Where the entries end that the latest checkpoint in an index file confirms."""
    with open(index, "rb") as file:
        header = file.read(4096)
    return max(int.from_bytes(header[at : at + 8], "little") for at in (2064, 2576))


def test_what_nobody_flushes_is_flushed_after_a_while(tmp_path, short_timer):
    with Disk(tmp_path, False) as disk:
        for number in range(1, 4):
            disk.write(b"x" * 4096, 0)
            deadline = time.monotonic() + 10
            while confirmed(disk.pair[1]) != 4096 + 16 * number:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.2)  # it has nothing to do, and ends


def test_idle_disk_has_no_thread(tmp_path, short_timer):
    before = len(os.listdir("/proc/self/task"))
    with Disk(tmp_path, False) as disk:
        disk.write(b"x" * 4096, 0)
        deadline = time.monotonic() + 10
        while len(os.listdir("/proc/self/task")) > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
