# SPDX-License-Identifier: Apache-2.0
"""Writable images: whatever is done to them, in whatever order, they are a disk."""

import errno
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import engines, layers
from . import raw_layers, upper_disk

SIZE = upper_disk.SIZE
SECTOR = 512
CLUSTER = layers.CLUSTER
STEPS = 500 if engines.SANITIZED else 2500


@pytest.fixture(params=["append", "sparse"])
def sparse(request):
    return request.param == "sparse"


@pytest.mark.parametrize("over", [False, True])
def test_random_changes(tmp_path, rng, sparse, over):
    """Writes of a sector to the whole disk, discards, flushes, reopening, snapshots."""
    lower = b"".join(layers.cluster("L", n) if n % 3 else bytes(CLUSTER) for n in range(400))
    with upper_disk.Disk(tmp_path, sparse, lower if over else b"") as disk:
        for _ in range(STEPS):
            offset = rng.randrange(SIZE // SECTOR) * SECTOR
            count = rng.choice([512, 512, 1024, 4096, 4096, 4096, 12288, 65536, 200 << 10, SIZE])
            count = min(count, SIZE - offset)
            roll = rng.random()
            if roll < 0.45:
                disk.write(rng.randbytes(count), offset)
            elif roll < 0.55:
                disk.discard(offset, count)
            elif roll < 0.555:
                disk.image.flush()
            elif roll < 0.56:
                disk.image.close()
                disk.open()
            elif roll < 0.562:
                disk.snapshot()
            else:
                disk.check(offset + rng.randrange(SECTOR), max(count - SECTOR, 0))
        disk.check()
        check_next_data(disk)


def check_next_data(disk):
    """Whatever is not zero lies in a range that is told, and ranges do not touch."""
    at, shown = 0, bytearray(SIZE)
    while (found := disk.image.next_data(at)) is not None:
        start, end = found
        assert at <= start < end <= SIZE and (start > at or at == 0)
        shown[start:end] = disk.model[start:end]
        at = end
    assert shown == disk.model


def test_writes_and_reads_of_many_threads(tmp_path, rng, sparse):
    """Each thread has a stripe of its own, and reads what it has written."""
    stripe, failures = SIZE // 4, []

    def work(number, random_bytes, choices):
        model = bytearray(stripe)
        for offset, count, kind in choices:
            place = number * stripe + offset
            if kind == 0:
                data = random_bytes[offset : offset + count]
                disk.image.pwrite(data, place)
                model[offset : offset + count] = data
            elif kind == 1:
                disk.image.discard(place, count)
                model[offset : offset + count] = bytes(count)
            elif kind == 2:
                disk.image.flush()
            elif disk.image.pread(count, place) != model[offset : offset + count]:
                failures.append((number, offset, count))
        disk.model[number * stripe : (number + 1) * stripe] = model

    with upper_disk.Disk(tmp_path, sparse, b"L" * SIZE) as disk:
        disk.discard(0, SIZE)
        threads = []
        for number in range(4):
            choices = []
            for _ in range(400):
                offset = rng.randrange(stripe // SECTOR) * SECTOR
                count = min(rng.choice([512, 4096, 4096, 100 << 10]), stripe - offset)
                choices.append((offset, count, rng.choice([0, 0, 0, 1, 3, 3, 3, 3, 2])))
            arguments = (number, rng.randbytes(stripe), choices)
            threads.append(threading.Thread(target=work, args=arguments))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        disk.check()
        disk.image.close()
        disk.open()
        disk.check()


# ---- as pictures


def picture(image, count):
    """A character a cluster; a cluster whose sectors differ is '?'."""

    def letter(number):
        data = image.pread(CLUSTER, number * CLUSTER)
        return "0" if data == bytes(CLUSTER) else data[:1].decode()

    return "".join(letter(number) for number in range(count))


@pytest.mark.parametrize(
    "lower, changes, expected",
    [
        ("----", ["w1A"], "0A00"),
        ("LLLL", ["w1A"], "LALL"),
        ("LLLL", ["d1"], "L0LL"),
        ("LLLL", ["w1A", "d1"], "L0LL"),
        ("LLLL", ["d1", "w1A"], "LALL"),
        ("L-L-", ["w0A", "w1B", "d0", "d3"], "0BL0"),
        ("LLLL", ["d0", "d1", "d2", "d3"], "0000"),
    ],
)
def test_pictures(tmp_path, sparse, lower, changes, expected):
    layers.write_picture(tmp_path / "lower", lower)
    pair = str(tmp_path / "d"), str(tmp_path / "i")
    native.create_upper(*pair, 0, sparse)

    def opened():
        return native.Image([native.Layer.open(str(tmp_path / "lower"))], upper=native.Upper(*pair))

    with opened() as image:
        for change in changes:
            if change[0] == "w":
                image.pwrite(change[2].encode() * CLUSTER, int(change[1]) * CLUSTER)
            else:
                image.discard(int(change[1]) * CLUSTER, CLUSTER)
        assert picture(image, len(lower)) == expected
    with opened() as image:
        assert picture(image, len(lower)) == expected


def test_sector_written_to_a_sparse_layer_hides_no_other(tmp_path):
    """Its file system knows blocks of 4096; the original then shows zeros around the sector."""
    layers.write_picture(tmp_path / "lower", "LLL")
    pair = str(tmp_path / "d"), str(tmp_path / "i")
    native.create_upper(*pair, 0, sparse=True)
    expected = bytearray(layers.view("LLL"))
    for offset in (512, 3584, 8192 + 1024):
        with native.Image(
            [native.Layer.open(str(tmp_path / "lower"))], upper=native.Upper(*pair)
        ) as image:
            image.pwrite(b"s" * 1024, offset)
            expected[offset : offset + 1024] = b"s" * 1024
    with native.Image(
        [native.Layer.open(str(tmp_path / "lower"))], upper=native.Upper(*pair)
    ) as image:
        assert image.pread(len(expected), 0) == expected


# ---- refusals


def failure(function, *arguments):
    with pytest.raises(errors.NativeError) as caught:
        function(*arguments)
    return caught.value.code


def test_parts_of_sectors_are_refused(tmp_path, sparse):
    with upper_disk.Disk(tmp_path, sparse) as disk:
        for offset, count in ((1, 512), (0, 511), (511, 1), (256, 512)):
            assert failure(disk.image.pwrite, b"x" * count, offset) == errno.EINVAL
            assert failure(disk.image.discard, offset, count) == errno.EINVAL
        disk.check()


def test_beyond_the_end_is_refused(tmp_path, sparse):
    with upper_disk.Disk(tmp_path, sparse) as disk:
        assert failure(disk.image.pwrite, b"x" * 1024, SIZE - 512) == errno.EINVAL
        assert failure(disk.image.discard, SIZE, 512) == errno.EINVAL
        disk.discard(0, 0)
        disk.check()


def test_image_without_an_upper_is_not_written(tmp_path):
    layers.write_picture(tmp_path / "lower", "LL")
    with native.Image([native.Layer.open(str(tmp_path / "lower"))]) as image:
        assert failure(image.pwrite, b"x" * 512, 0) == errno.EROFS
        assert failure(image.discard, 0, 512) == errno.EROFS
        image.flush()
        info = image.info()
        assert (info.writable, info.discard) == (0, 0)
        assert picture(image, 2) == "LL"


def test_upper_open_for_reading_makes_an_image_that_is(tmp_path, sparse):
    with upper_disk.Disk(tmp_path, sparse) as disk:
        disk.write(b"x" * 512, 0)
        disk.image.close()
        with native.Image([], upper=native.Upper(*disk.pair, read_only=True)) as image:
            assert failure(image.pwrite, b"y" * 512, 0) == errno.EROFS
            assert image.pread(SIZE, 0) == disk.model
        disk.open()


def test_upper_stays_the_callers_when_the_image_cannot_be_made(tmp_path):
    (tmp_path / "other").write_bytes(raw_layers.lsmt(b"", b"", virtual_size=0))
    native.create_upper(str(tmp_path / "d"), str(tmp_path / "i"))
    with native.Upper(str(tmp_path / "d"), str(tmp_path / "i")) as upper:
        with native.Layer.open(str(tmp_path / "other")) as layer:
            assert failure(lambda: native.Image([layer], upper=upper)) == errno.EINVAL
        assert upper.info().segments == 0


def test_counts(tmp_path, sparse):
    with upper_disk.Disk(tmp_path, sparse) as disk:
        disk.write(b"x" * 4096, 0)
        disk.write(b"x" * 512, 8192)
        disk.discard(0, 4096)
        disk.image.flush()
        stats = disk.image.stats()
    assert (stats.writes, stats.write_bytes, stats.discards, stats.flushes) == (2, 4608, 1, 1)
    assert stats.errors == 0


@pytest.mark.parametrize("engine", list(native.Engine))
def test_every_engine_serves_a_writable_image(tmp_path, engine):
    """They all read as psync does: what is planned must not miss what is written meanwhile."""
    layers.write_picture(tmp_path / "lower", "LLL")
    pair = str(tmp_path / "d"), str(tmp_path / "i")
    native.create_upper(*pair)
    lower = native.Layer.open(str(tmp_path / "lower"), direct=True)
    with native.Image([lower], engine, upper=native.Upper(*pair)) as image:
        image.pwrite(b"A" * CLUSTER, CLUSTER)
        assert picture(image, 3) == "LAL"
        assert image.info().engine == native.Engine.PSYNC
