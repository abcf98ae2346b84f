# SPDX-License-Identifier: Apache-2.0
"""Where an archive comes from: compressed or not, a file or a pipe, whole or cut off."""

import gzip
import hashlib
import os
import random
import threading

import pytest
import zstandard

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import ext4

from . import archive

# Compressible, but never in two ways.
TEXT = random.Random(1).randbytes(320_000).hex().encode()
ARCHIVE = archive.file(b"one", TEXT) + archive.file(b"two", TEXT[::-1]) + archive.END + b"trailing"


def unwrapped(data):
    return data


def gz(data):
    return gzip.compress(data, 1)


def gz_members(data):
    return b"".join(gz(data[at : at + 100_001]) for at in range(0, len(data), 100_001))


def gz_with_padding(data):
    return gz(data) + bytes(1000)


def zst(data):
    return zstandard.ZstdCompressor().compress(data)


def zst_frames(data):
    skipped = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"
    return zst(data[:50_000]) + skipped + zst(data[50_000:])


FORMS = [unwrapped, gz, gz_members, gz_with_padding, zst, zst_frames]


@pytest.fixture(params=[False, True], ids=["file", "pipe"])
def reading(request, tmp_path):
    """A function from bytes to a descriptor that they can be read from."""
    threads, opened = [], []

    def feed(fd, data):
        try:
            with os.fdopen(fd, "wb") as pipe:
                pipe.write(data)
        except BrokenPipeError:
            pass

    def make(data):
        if request.param:
            fd, end = os.pipe()
            threads.append(threading.Thread(target=feed, args=(end, data)))
            threads[-1].start()
        else:
            (tmp_path / "input").write_bytes(data)
            fd = os.open(tmp_path / "input", os.O_RDONLY)
        opened.append(fd)
        return fd

    yield make
    for fd in opened:
        os.close(fd)
    for thread in threads:
        thread.join()


def apply(image, fd, **options):
    with ext4.file_disk(str(image.path)) as disk:
        return ext4.apply(disk, fd, **options)


@pytest.mark.parametrize("form", FORMS)
def test_form(image, reading, form):
    applied = apply(image, reading(form(ARCHIVE)), sha256=hashlib.sha256(ARCHIVE).hexdigest())
    assert (applied.entries, applied.sha256) == (2, hashlib.sha256(ARCHIVE).hexdigest())
    assert image.debugfs("cat two").encode() == TEXT[::-1]


@pytest.mark.parametrize("form", FORMS)
def test_digest_alone(reading, form):
    assert ext4.digest(reading(form(ARCHIVE))) == hashlib.sha256(ARCHIVE).hexdigest()


@pytest.mark.parametrize("upper", [False, True])
def test_digest_that_differs(image, reading, upper):
    wrong, right = "ab" * 32, hashlib.sha256(ARCHIVE).hexdigest()
    with pytest.raises(errors.NativeError) as caught:
        apply(image, reading(ARCHIVE), sha256=wrong.upper() if upper else wrong)
    assert f"sha256 checksum mismatch, expect: {wrong}" in str(caught.value).lower()
    assert f"got: {right}" in str(caught.value)
    apply(image, reading(ARCHIVE), sha256=right.upper() if upper else right)


@pytest.mark.parametrize("form, name", [(gz, "gzip"), (zst, "zstd")])
@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_stream_that_is_cut_off(image, reading, form, name, keep):
    data = form(ARCHIVE)
    with pytest.raises(
        errors.NativeError, match=f"the {name} stream at offset .*ends in the middle"
    ):
        apply(image, reading(data[: int(len(data) * keep)]))


def test_stream_that_is_cut_off_behind_the_archive(image, reading):
    """All entries are there, but the checksum of the stream is not."""
    with pytest.raises(errors.NativeError, match="gzip stream at offset .*ends in the middle"):
        apply(image, reading(gz(ARCHIVE)[:-4]))
    assert set(image.tree()) == {"one", "two"}


@pytest.mark.parametrize("form", [gz, zst])
def test_stream_with_a_flipped_bit(image, reading, form, rng):
    data = bytearray(form(ARCHIVE))
    data[rng.randrange(30, len(data))] ^= 1 << rng.randrange(8)
    with pytest.raises(errors.NativeError):
        apply(image, reading(bytes(data)), sha256=hashlib.sha256(ARCHIVE).hexdigest())


def test_garbage_behind_a_member(image, reading):
    with pytest.raises(errors.NativeError, match="data that is no gzip follows"):
        apply(image, reading(gz(ARCHIVE) + b"garbage"))


def test_form_that_we_do_not_know(image, reading):
    with pytest.raises(errors.NativeError, match="at offset 0 of the archive: no tar header"):
        apply(image, reading(b"\xfd7zXZ\0" + bytes(range(256)) * 4))


def test_nothing(image, reading):
    assert apply(image, reading(b"")).entries == 0


def test_writer_of_a_pipe_that_waits_is_not_waited_for(image):
    """The archive is wrong; that nobody closes the other end does not matter."""
    fd, end = os.pipe()
    try:
        os.write(end, archive.header(b"x", b"V") + bytes(4096))
        with pytest.raises(errors.NativeError, match="has type 0x56"):
            os.write(end, bytes(60000))
            apply(image, _first_slot(fd, end))
    finally:
        os.close(fd)
        os.close(end)


def _first_slot(fd, end):
    """Enough for the reading thread to hand over what it has; the pipe stays open."""
    thread = threading.Thread(target=os.write, args=(end, bytes(500_000)))
    thread.start()
    thread.name = "feeder"
    _first_slot.thread = thread
    return fd


def test_closed_input(image):
    with pytest.raises(errors.NativeError, match="input stream at offset 0"):
        apply(image, 9999)


def test_progress(image, reading):
    progress = ext4.Progress()
    data = gz(ARCHIVE)
    apply(image, reading(data), progress=progress)
    assert (progress.input, progress.archive, progress.entries) == (len(data), len(ARCHIVE), 2)
