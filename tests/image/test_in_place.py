# SPDX-License-Identifier: Apache-2.0
"""
Layers read in place, through a mapping of the page cache: who does it, that the bytes are the same,
and what happens when a file becomes shorter under the mapping.
"""

import errno
import os
import threading

import pytest

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import commit, lsmt, zfile
from overlaybd_tcmu.units import KiB

from ..support import golden

PAGE = 4 * KiB
SECTORS = 2400  # of data: several words of pages
DATA = lsmt.FIRST_SECTOR * 512  # where it begins in a plain layer's file


@pytest.fixture
def content(rng):
    return rng.randbytes(SECTORS * 512)


@pytest.fixture
def plain(tmp_path, content):
    """A layer as it is: its data has no checksum."""
    segment = lsmt.Segment(0, SECTORS, lsmt.FIRST_SECTOR, False)
    index = commit.padded_index([segment])
    path = tmp_path / "plain"
    path.write_bytes(commit.assemble(content, index, lsmt.Record(0, virtual_size=len(content))))
    return path


@pytest.fixture
def zfiles(tmp_path, plain):
    """The same in a ZFile, with checksums or without."""

    def write(verify):
        path = tmp_path / f"zfile{verify}"
        stored = zfile.encode(plain.read_bytes(), block_size=16 * KiB, verify=verify)
        path.write_bytes(stored)
        return path

    return write


def opened(path, **options):
    return native.Image([native.Layer.open(str(path))], native.Engine.PSYNC, **options)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", "always")


def test_idle_image_maps_nothing(plain, content):
    with opened(plain) as image:
        for offset in range(0, len(content), 4 * PAGE):
            image.pread(PAGE, offset)
        assert image.stats().in_place == 0


def test_busy_image_reads_in_place(plain, content):
    with opened(plain) as image:
        for number in range(6000):
            offset = number * 512 % (len(content) - PAGE)
            assert image.pread(PAGE, offset) == content[offset : offset + PAGE]
        stats = image.stats()
        assert stats.in_place > 1000
        assert stats.in_place + stats.disk_reads == 6000


def test_in_place_can_be_demanded_and_forbidden(plain, content, monkeypatch):
    for demanded, count in (("always", 1), ("never", 0)):
        monkeypatch.setenv("OVERLAYBD_IN_PLACE", demanded)
        with opened(plain) as image:
            assert image.pread(len(content), 0) == content
            assert bool(image.stats().in_place) == count
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", "perhaps")
    with native.Layer.open(str(plain)) as layer:
        with pytest.raises(errors.NativeError, match="'perhaps' is neither always nor never"):
            native.Image([layer])


def test_what_is_not_in_the_page_cache_is_not_touched(plain, content, always):
    fd = os.open(plain, os.O_RDONLY)
    try:
        with opened(plain) as image:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if in_page_cache(fd, 10 * PAGE):
                pytest.skip("this file system keeps its pages")
            assert image.pread(PAGE, 0) == content[:PAGE]
            assert image.stats().in_place == 0 and image.stats().blocked == 1
    finally:
        os.close(fd)


def in_page_cache(fd, offset):
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


@pytest.mark.parametrize("name", ["lz4-4k", "zstd-4k", "tar-lz4-4k", "c-lz4-64k", "c-zstd-64k"])
def test_golden_stack_read_in_place(name, monkeypatch):
    """The recorded digests are those of test_golden; here the two ways are held to each other."""
    suffix = "tar" if name.startswith("tar") else "zfile"
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", "always")
    paths = [str(golden.folder() / name / f"layer{number}.{suffix}") for number in range(2)]
    with native.Image([native.Layer.open(path) for path in paths]) as image:
        in_place = whole(image)
        assert image.stats().in_place > image.stats().disk_reads
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", "never")
    with native.Image([native.Layer.open(path) for path in paths]) as image:
        assert whole(image) == in_place


def whole(image):
    parts, offset = [], 0
    while (mapped := image.next_data(offset)) is not None:
        parts.append((mapped[0], image.pread(mapped[1] - mapped[0], mapped[0])))
        offset = mapped[1]
    return parts


# ---- files that are cut


def cut(path, size):
    """Shortens a file; what was cut off."""
    lost = path.read_bytes()[size:]
    os.truncate(path, size)
    return lost


def mend(path, lost):
    with open(path, "ab") as file:
        file.write(lost)


def assert_ends_at(size, image, events, count, offset):
    with pytest.raises(errors.NativeError) as caught:
        image.pread(count, offset)
    assert caught.value.errno == errno.EIO
    assert f"the file ends at offset {size}" in events.next(0).text


@pytest.mark.parametrize("odd", [0, 1, 512, 3000])
def test_plain_layer_that_was_cut_fails_and_is_never_zeros(plain, content, always, odd):
    size = DATA + 100 * PAGE + odd
    with native.Events() as events, opened(plain, events=events) as image:
        assert image.pread(len(content), 0) == content
        lost = cut(plain, size)
        assert_ends_at(size, image, events, PAGE, 100 * PAGE)
        assert image.pread(100 * PAGE, 0) == content[: 100 * PAGE]
        mend(plain, lost)
        assert image.pread(len(content), 0) == content


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("odd", [0, 700])
def test_zfile_that_was_cut_fails(zfiles, content, always, verify, odd):
    path = zfiles(verify)
    size = 60 * PAGE + odd
    with native.Events() as events, opened(path, events=events) as image:
        assert image.pread(len(content), 0) == content
        lost = cut(path, size)
        assert_ends_at(size, image, events, len(content), 0)
        mend(path, lost)
        assert image.pread(len(content), 0) == content


def test_threads_survive_a_file_that_is_cut_and_mended(plain, content, always):
    """Each read gives the bytes or EIO, whatever it meets."""
    image, over, wrong = opened(plain, helpers=2), threading.Event(), []

    def read():
        while not over.is_set():
            for offset in range(0, len(content), 37 * PAGE):
                count = min(40 * PAGE, len(content) - offset)
                try:
                    if image.pread(count, offset) != content[offset : offset + count]:
                        wrong.append(offset)
                except errors.NativeError as error:
                    if error.errno != errno.EIO:
                        wrong.append(error)

    threads = [threading.Thread(target=read, name=f"reader{number}") for number in range(3)]
    for thread in threads:
        thread.start()
    for round_ in range(60):
        mend(plain, cut(plain, DATA + (round_ * 7 % 200) * PAGE + round_ * 11))
    over.set()
    for thread in threads:
        thread.join()
    assert image.stats().in_place > 0
    image.close()
    assert not wrong
