# SPDX-License-Identifier: Apache-2.0
"""Live snapshots: the disk goes on, and its files can be opened at every moment."""

import errno
import os
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from ..support import layers

CLUSTER = layers.CLUSTER
SIZE = 64 * CLUSTER


@pytest.fixture(params=["append", "sparse"])
def sparse(request):
    return request.param == "sparse"


@pytest.fixture
def pair(tmp_path, sparse):
    """Makes the pair of a number; its paths."""

    def make(number, size=0):
        paths = str(tmp_path / f"data{number}"), str(tmp_path / f"index{number}")
        native.create_upper(*paths, size, sparse)
        return paths

    return make


@pytest.fixture
def image(pair):
    """A disk with clusters 0 and 1 written."""
    with native.Image([], helpers=1, upper=native.Upper(*pair(0, SIZE))) as one:
        one.pwrite(b"A" * CLUSTER, 0)
        one.pwrite(b"A" * CLUSTER, CLUSTER)
        yield one


def letters(image, count=4):
    first = [image.pread(1, number * CLUSTER) for number in range(count)]
    return "".join("0" if byte == b"\0" else byte.decode() for byte in first)


def failure(function, *arguments):
    with pytest.raises(errors.NativeError) as caught:
        function(*arguments)
    return caught.value.code, str(caught.value)


def test_disk_goes_on(image, pair, tmp_path):
    image.snapshot(native.Upper(*pair(1)))
    assert letters(image) == "AA00"
    image.pwrite(b"B" * CLUSTER, CLUSTER)
    image.pwrite(b"B" * CLUSTER, 2 * CLUSTER)
    image.discard(0, CLUSTER)
    assert letters(image) == "0BB0"
    with native.Image([native.Layer.open(str(tmp_path / "data0"))]) as sealed:
        assert letters(sealed) == "AA00"
    info = image.info()
    assert (info.layers, info.writable, info.virtual_size) == (1, 1, SIZE)


def test_files_open_as_the_stack_they_are(image, pair, tmp_path):
    for number in range(1, 6):
        image.snapshot(native.Upper(*pair(number)))
        image.pwrite(bytes([65 + number]) * CLUSTER, number * CLUSTER)
    content = image.pread(SIZE, 0)
    image.close()
    lowers = [native.Layer.open(str(tmp_path / f"data{number}")) for number in range(5)]
    upper = native.Upper(str(tmp_path / "data5"), str(tmp_path / "index5"))
    with native.Image(lowers, upper=upper) as again:
        assert again.pread(SIZE, 0) == content
        assert letters(again, 6) == "ABCDEF"


def test_config_takes_its_place(image, pair, tmp_path):
    (tmp_path / "config").write_text("old")
    (tmp_path / "config.new").write_text("new")
    upper = native.Upper(*pair(1))
    image.snapshot(upper, str(tmp_path / "config.new"), str(tmp_path / "config"))
    assert (tmp_path / "config").read_text() == "new"
    assert not (tmp_path / "config.new").exists()


def test_config_that_is_not_there_leaves_all_as_it_was(image, pair, tmp_path):
    with native.Upper(*pair(1)) as upper:
        code, text = failure(image.snapshot, upper, str(tmp_path / "no"), str(tmp_path / "config"))
        assert code == errno.ENOENT and text.startswith(str(tmp_path / "no"))
    assert_goes_on_as_it_was(image, tmp_path)


def assert_goes_on_as_it_was(image, tmp_path):
    """Nothing has been sealed, and what is written goes where it went."""
    image.pwrite(b"C" * CLUSTER, 2 * CLUSTER)
    assert letters(image) == "AAC0"
    assert image.info().layers == 0
    image.close()
    upper = native.Upper(str(tmp_path / "data0"), str(tmp_path / "index0"))
    with native.Image([], upper=upper) as again:
        assert letters(again) == "AAC0"


def test_upper_that_is_not_new_is_refused(image, pair, tmp_path):
    used = pair(1, SIZE)
    with native.Image([], upper=native.Upper(*used)) as other:
        other.pwrite(b"x" * 512, 0)
    with native.Upper(*used) as upper:
        code, text = failure(image.snapshot, upper)
        assert code == errno.EINVAL and "is not new: it has 1 segments" in text
    assert_goes_on_as_it_was(image, tmp_path)


def test_upper_of_another_size_is_refused(image, pair, tmp_path):
    with native.Upper(*pair(1, 2 * SIZE)) as upper:
        code, text = failure(image.snapshot, upper)
        assert code == errno.EINVAL and "is not that of the image" in text
    assert_goes_on_as_it_was(image, tmp_path)


def test_upper_open_for_reading_is_refused(image, pair, tmp_path):
    with native.Upper(*pair(1), read_only=True) as upper:
        assert failure(image.snapshot, upper)[0] == errno.EINVAL
    assert_goes_on_as_it_was(image, tmp_path)


def test_image_without_an_upper_has_no_snapshot(pair, tmp_path):
    layers.write_picture(tmp_path / "lower", "LL")
    with native.Image([native.Layer.open(str(tmp_path / "lower"))]) as image:
        with native.Upper(*pair(1)) as upper:
            assert failure(image.snapshot, upper)[0] == errno.EROFS


def test_stack_cannot_grow_beyond_its_limit(pair, tmp_path):
    layers.write_picture(tmp_path / "lower", "LL")
    lowers = [native.Layer.open(str(tmp_path / "lower")) for _ in range(254)]
    with native.Image(lowers, upper=native.Upper(*pair(0))) as image:
        image.pwrite(b"A" * 512, 0)
        image.snapshot(native.Upper(*pair(1)))
        assert image.info().layers == 255
        with native.Upper(*pair(2)) as upper:
            code, text = failure(image.snapshot, upper)
        assert code == errno.EINVAL and "can have no more" in text
        assert letters(image, 2) == "AL"


def test_readers_and_writers_notice_nothing(image, pair, rng):
    """Snapshots while four threads write and read stripes of their own."""
    stripe, stop, failures = SIZE // 4, threading.Event(), []
    choices = [[rng.randrange(stripe // 512) * 512 for _ in range(500)] for _ in range(4)]
    image.discard(0, SIZE)

    def work(number):
        model, step = bytearray(stripe), 0
        while not stop.is_set():
            offset = choices[number][step % 500]
            data = bytes([1 + step % 255]) * min(4096, stripe - offset)
            image.pwrite(data, number * stripe + offset)
            model[offset : offset + len(data)] = data
            if image.pread(stripe, number * stripe) != model:
                failures.append((number, step))
                return
            step += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 30):
        image.snapshot(native.Upper(*pair(number)))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert image.info().layers == 29


def test_sealed_file_is_flushed_and_closed(image, pair, tmp_path):
    """Nobody holds it but the reader: the lock is gone, and the index file is closed."""
    image.snapshot(native.Upper(*pair(1)))
    native.Upper(str(tmp_path / "data0"), str(tmp_path / "index0"), read_only=True).close()
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if exists(fd)]
    assert str(tmp_path / "index0") not in held


def exists(fd):
    return os.path.lexists(f"/proc/self/fd/{fd}")
