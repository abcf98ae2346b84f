# SPDX-License-Identifier: Apache-2.0
"""
What a writable layer does when its disk refuses, each case in a process of its own (disk_log.c):

    python -m tests.support.disk_faults FOLDER CASE

A case is a function of this file; its assertions are the test's.
"""

import contextlib
import errno
import os
import pathlib
import sys
import time

from overlaybd_tcmu import errors
from overlaybd_tcmu.ffi import native

from . import disk_log, native_test

SIZE = 1 << 20
BLOCK = 4096


class Disk:
    """A layer with block 0 written and flushed, block 1 written."""

    def __init__(self, folder, sparse=False):
        self.folder = folder
        self.pair = os.path.join(folder, "data"), os.path.join(folder, "index")
        native.create_upper(*self.pair, SIZE, sparse)
        self.events = native.Events()
        self.open()
        self.write("A", 0)
        self.image.flush()
        self.write("B", 1)

    def open(self):
        upper = native.Upper(*self.pair)
        self.image = native.Image([], helpers=1, upper=upper, events=self.events)

    def write(self, letter, block, count=1):
        self.image.pwrite(letter.encode() * (BLOCK * count), block * BLOCK)

    def shows(self, expected):
        found = ""
        for number in range(len(expected)):
            data = self.image.pread(BLOCK, number * BLOCK)
            assert data.count(data[:1]) == BLOCK, f"block {number} is a mixture"
            found += "-" if data[:1] == b"\0" else data[:1].decode()
        assert found == expected, f"{found} instead of {expected}"

    def reopened_shows(self, expected):
        self.image.close()
        self.open()
        self.shows(expected)

    def close(self):
        with contextlib.suppress(errors.NativeError):
            self.image.close()
        self.events.close()

    def told(self):
        """The next event's errno and text."""
        event = self.events.next(5000)
        assert event.kind == native.EventKind.WRITE_ERROR
        return event.code, event.text


def fails(code, function, *arguments):
    try:
        function(*arguments)
    except errors.NativeError as error:
        assert error.code == code, f"{error} instead of {os.strerror(code)}"
        return
    raise AssertionError("nothing was refused")


def data_write(folder):
    """Of either kind of layer: the write fails, all else stays, the next one works."""
    for number, sparse in enumerate((False, True)):
        place = os.path.join(folder, str(number))
        os.mkdir(place)
        disk = Disk(place, sparse)
        for code in (errno.EIO, errno.ENOSPC):
            disk_log.fault(disk_log.WRITE, "/data", code)
            fails(code, disk.write, "C", 2)
            disk.shows("AB-")
            assert disk.told()[0] == code
        disk.write("D", 3)
        disk.shows("AB-D")
        disk.reopened_shows("AB-D")
        disk.close()


def data_write_that_stops_half_way(folder):
    """What is there of it is garbage, and the next write goes over it."""
    disk = Disk(folder)
    disk_log.fault(disk_log.WRITE, "/data", errno.ENOSPC, partly=1000)
    fails(errno.ENOSPC, disk.write, "C", 2)
    assert os.stat(disk.pair[0]).st_size == 3 * BLOCK
    disk.write("D", 3)
    disk.reopened_shows("AB-D")
    disk.close()


def index_write(folder):
    disk = Disk(folder)
    disk_log.fault(disk_log.WRITE, "/index", errno.EIO)
    fails(errno.EIO, disk.write, "C", 2)
    disk.shows("AB-")
    disk.write("D", 3)
    disk.reopened_shows("AB-D")
    disk.close()


def index_that_cannot_grow(folder):
    """It is grown before it has to be; and the last of what there is is kept for discards."""
    disk = Disk(folder)
    disk.write("C", 2, 200)
    disk_log.fault(disk_log.WRITE, "/index", errno.ENOSPC, repeat=True, least=BLOCK)
    written = 3
    with contextlib.suppress(errors.NativeError):
        while written < 5000:
            disk.write("B", 1)
            written += 1
    assert 3000 < written < 4096, written
    fails(errno.ENOSPC, disk.write, "B", 1)
    for number in range(2, 202):
        disk.image.discard(number * BLOCK, BLOCK)
    disk.shows("AB----")
    disk_log.fault(None)
    disk.write("D", 3)
    disk.reopened_shows("AB-D--")
    disk.close()


def data_sync(folder):
    """What was not confirmed may be gone from the page cache: nothing more is written over it."""
    disk = Disk(folder)
    disk_log.fault(disk_log.SYNC, "/data", errno.EIO)
    fails(errno.EIO, disk.image.flush)
    disk.shows("AB-")
    fails(errno.EIO, disk.write, "C", 2)
    fails(errno.EIO, disk.image.discard, 0, BLOCK)
    fails(errno.EIO, disk.image.flush)
    disk.shows("AB-")
    # opened again, it is what was confirmed, though this is the same boot
    disk.reopened_shows("A--")
    disk.write("C", 2)
    disk.reopened_shows("A-C")
    disk.close()


def index_sync(folder):
    disk = Disk(folder)
    disk_log.fault(disk_log.SYNC, "/index", errno.EIO)
    fails(errno.EIO, disk.image.flush)
    fails(errno.EIO, disk.write, "C", 2)
    disk.reopened_shows("A--")
    disk.close()


def sparse_sync(folder):
    disk = Disk(folder, sparse=True)
    disk_log.fault(disk_log.SYNC, "/data", errno.EIO)
    fails(errno.EIO, disk.image.flush)
    fails(errno.EIO, disk.write, "C", 2)
    fails(errno.EIO, disk.image.discard, 0, BLOCK)
    disk.shows("AB-")
    disk.close()


def checkpoint_write(folder):
    """Nothing is lost by that: the next flush confirms it."""
    disk = Disk(folder)
    disk_log.fault(disk_log.WRITE, "/index", errno.ENOSPC)
    fails(errno.ENOSPC, disk.image.flush)
    disk.write("C", 2)
    disk.image.flush()
    native_test.upper_boot(b"another boot    ")
    disk.reopened_shows("ABC")
    disk.close()


def timer_sync(folder):
    """Nobody waits for that flush, so the next who comes is told."""
    native_test.upper_timer(20)
    disk = Disk(folder)
    disk_log.fault(disk_log.SYNC, "/data", errno.EIO)
    disk.write("C", 2)
    deadline = time.monotonic() + 10
    with contextlib.suppress(errors.NativeError):
        while time.monotonic() < deadline:
            disk.write("C", 2)
            time.sleep(0.01)
    fails(errno.EIO, disk.write, "D", 3)
    fails(errno.EIO, disk.image.flush)
    disk.close()


def last_flush(folder):
    """Closing cannot fail, but it is told."""
    disk = Disk(folder)
    disk_log.fault(disk_log.SYNC, "/data", errno.EIO)
    disk.image.close()
    code, text = disk.told()
    assert code == errno.EIO and text.startswith(disk.pair[0])
    disk.open()
    disk.shows("A--")
    disk.close()


def opening(folder):
    """Who cannot say that it writes does not write."""
    disk = Disk(folder)
    disk.image.close()
    for operation, suffix in (
        (disk_log.SYNC, "/data"),
        (disk_log.SYNC, "/index"),
        (disk_log.WRITE, "/index"),
    ):
        disk_log.fault(operation, suffix, errno.EIO)
        fails(errno.EIO, disk.open)
        disk.open()
        disk.reopened_shows("AB-")
        disk.image.close()
    disk.open()
    disk.close()


def compacting(folder):
    """An index file that cannot be written anew stays in use."""
    native_test.upper_compact(64)
    for operation, suffix, least in (
        (disk_log.WRITE, f".new.{os.getpid()}", 0),
        (disk_log.WRITE, f".new.{os.getpid()}", BLOCK),
        (disk_log.SYNC, f".new.{os.getpid()}", 0),
        (disk_log.RENAME, f".new.{os.getpid()}", 0),
    ):
        place = os.path.join(folder, f"{operation}-{least}")
        os.mkdir(place)
        disk = Disk(place)
        for _ in range(100):
            disk.write("C", 2)
        before = os.stat(disk.pair[1]).st_ino
        disk_log.fault(operation, suffix, errno.ENOSPC, least=least)
        disk.image.flush()
        assert os.stat(disk.pair[1]).st_ino == before
        assert sorted(os.listdir(place)) == ["data", "index"]
        disk.write("D", 3)
        disk.shows("ABCD")
        native_test.upper_boot(operation.to_bytes(16, "big"))
        disk.image.flush()
        disk.reopened_shows("ABCD")
        assert os.stat(disk.pair[1]).st_ino != before  # opening it tries again
        disk.close()


def compacted(folder):
    """When nobody knows which of the index files the disk has, nothing is confirmed any more."""
    native_test.upper_compact(64)
    disk = Disk(folder)
    for _ in range(100):
        disk.write("C", 2)
    disk_log.fault(disk_log.SYNC, folder, errno.EIO)
    fails(errno.EIO, disk.image.flush)
    fails(errno.EIO, disk.write, "D", 3)
    disk.shows("ABC-")
    native_test.upper_boot(bytes(16))
    disk.reopened_shows("ABC-")
    disk.write("D", 3)
    disk.image.flush()
    disk.reopened_shows("ABCD")
    disk.close()


def sealing(folder):
    """A snapshot that cannot seal leaves the image as it was, whichever step it is."""
    refused = {}
    for operation, suffix in (
        (disk_log.WRITE, "/data"),
        (disk_log.SYNC, "/data"),
        (disk_log.WRITE, "/next_index"),
        (disk_log.SYNC, "/config.new"),
        (disk_log.RENAME, "/config.new"),
    ):
        skip = 0
        while not sealed(
            os.path.join(folder, f"{operation}{suffix}{skip}"), operation, suffix, skip
        ):
            skip += 1
        refused[operation, suffix] = skip
    assert refused == {
        (disk_log.WRITE, "/data"): 2,  # the entries, the trailer
        (disk_log.SYNC, "/data"): 3,  # the flush before, the entries, the trailer
        (disk_log.WRITE, "/next_index"): 1,  # the size
        (disk_log.SYNC, "/config.new"): 1,
        (disk_log.RENAME, "/config.new"): 1,
    }, refused


def sealed(folder, operation, suffix, skip):
    """Whether the snapshot came about; if not, nothing has happened."""
    os.makedirs(folder)
    disk = Disk(folder)
    pair = os.path.join(folder, "next"), os.path.join(folder, "next_index")
    native.create_upper(*pair)
    config = os.path.join(folder, "config")
    with open(config + ".new", "w", encoding="ascii") as file:
        file.write("new")
    with native.Upper(*pair) as upper:
        disk_log.fault(operation, suffix, errno.EIO, skip)
        try:
            disk.image.snapshot(upper, config + ".new", config)
        except errors.NativeError as error:
            assert error.code == errno.EIO, error
        disk_log.fault(None)
        done = upper.closed
    assert os.path.exists(config) == done
    disk.shows("AB-")
    if not done:
        nothing_has_happened(disk, final=(operation, suffix, skip) == (disk_log.SYNC, "/data", 0))
    disk.close()
    return done


def nothing_has_happened(disk, final):
    """final: it was the flush that failed, and what that means for a layer holds here too."""
    if final:
        fails(errno.EIO, disk.write, "C", 2)
        disk.reopened_shows("A--")
        disk.write("B", 1)
    disk.write("C", 2)
    disk.reopened_shows("ABC")


def disk_that_is_behind(folder):
    """
    A write that waits for the disk holds up the ring once; then writes are left to other threads,
    and reads are answered meanwhile.
    """
    from tests.native import tcmu_device as scsi
    from tests.native import test_scsi_write as writes

    with writes.Disk(pathlib.Path(folder)) as disk:
        assert disk.write(b"A" * 4096).status == 0
        disk_log.delay(20)
        assert disk.write(b"B" * 4096, 8).status == 0  # the one that waits
        disk_log.delay(1000)
        numbers = [
            disk.kernel.queue(writes.write_10(16 + 8 * i, 8), data=b"C" * 4096) for i in range(40)
        ]
        disk.kernel.kick()
        started = time.monotonic()
        assert scsi.good(disk.ask(scsi.read_10(0, 8), 4096)) == b"A" * 4096
        assert time.monotonic() - started < 0.9
        disk_log.delay(0)
        answers = disk.kernel.answers(len(numbers))
        assert [answers[number].status for number in numbers] == [0] * len(numbers)
        assert disk.read(16, 320) == b"C" * 4096 * 40


def main(folder, case):
    globals()[case](folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
