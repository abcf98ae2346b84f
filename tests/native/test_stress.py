# SPDX-License-Identifier: Apache-2.0
"""
Many images, many threads, every engine, images that come and go: the bytes stay right and all ends.

What it is really for: ThreadSanitizer watches ('make tsan').
"""

import contextlib
import os
import random
import threading
import time

import pytest

from overlaybd_tcmu.ffi import native
from overlaybd_tcmu.formats import zfile
from overlaybd_tcmu.units import KiB

from ..support import engines
from . import tcmu_device as scsi

SECONDS = 1.5
READERS = 3  # of each image


@pytest.fixture
def layers(tmp_path, rng):
    """The same disk as a plain layer and as a ZFile, and what it holds."""
    data = rng.randbytes(scsi.MAPPED // 2) * 2
    scsi.write_layer(tmp_path / "plain", data)
    stored = zfile.encode((tmp_path / "plain").read_bytes(), block_size=16 * KiB)
    (tmp_path / "zfile").write_bytes(stored)
    return [tmp_path / "plain", tmp_path / "zfile"], data + bytes(scsi.SIZE - scsi.MAPPED)


@pytest.fixture(autouse=True)
def restless(monkeypatch):
    """Threads end and pages are forgotten all the time."""
    monkeypatch.setenv("OVERLAYBD_IDLE_MS", "5")
    monkeypatch.setenv("OVERLAYBD_IN_PLACE", "always")


class Crowd:
    """Threads that run something until the time is over; the first error ends up here."""

    def __init__(self, rng):
        self._rng = rng
        self._until = time.monotonic() + SECONDS
        self._threads = []
        self.errors = []

    def add(self, run, *arguments):
        own = random.Random(self._rng.random())
        thread = threading.Thread(target=self._loop, args=(run, own, *arguments))
        self._threads.append(thread)
        thread.start()

    def _loop(self, run, rng, *arguments):
        try:
            while time.monotonic() < self._until and not self.errors:
                run(rng, *arguments)
        except Exception as error:
            self.errors.append(error)

    def join(self):
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def opened(path, engine, helpers):
    layer = native.Layer.open(str(path), engine == native.Engine.LIBAIO)
    return native.Image([layer], engine, helpers=helpers)


def read(rng, image, view):
    count = rng.choice((512, 4096, 70_000, 1 << 20))
    offset = rng.randrange(len(view) - count)
    assert image.pread(count, offset) == view[offset : offset + count]


def come_and_go(rng, paths, view):
    """An image that is closed as soon as its last read has returned."""
    engine, path = rng.choice(engines.ALL), rng.choice(paths)
    with opened(path, engine, rng.choice((0, 2))) as image:
        for _ in range(rng.randrange(4)):
            read(rng, image, view)


def test_images_read_by_many_threads_while_others_come_and_go(layers, rng):
    paths, view = layers
    crowd = Crowd(rng)
    with contextlib.ExitStack() as stack:
        for engine in engines.ALL:
            for path in paths:
                image = stack.enter_context(opened(path, engine, helpers=2))
                for _ in range(READERS):
                    crowd.add(read, image, view)
        for _ in range(2):
            crowd.add(come_and_go, paths, view)
        crowd.join()


def stopped_under_load(rng, paths, view):
    """A device whose ring is full when it is told to stop; what was answered is right."""
    engine, path = rng.choice(engines.ALL), rng.choice(paths)
    options = {"engine": engine, "helpers": 2}
    with scsi.Device([path], image_options=options, data=8 << 20) as device:
        wanted = {}
        for _ in range(30):
            blocks, lba = rng.randint(1, 128), rng.randrange(scsi.BLOCKS - 128)
            number = device.kernel.queue(scsi.read_10(lba, blocks), blocks * 512)
            wanted[number] = view[lba * 512 : (lba + blocks) * 512]
        device.kernel.kick()
        time.sleep(rng.random() * 0.002)
        device.tcmu.stop()
        device.thread.join()
        for number, answer in device.kernel.reap():
            assert (answer.status, answer.data) == (0, wanted[number])
    assert device.error is None


def test_devices_that_are_stopped_under_load(layers, rng):
    paths, view = layers
    crowd = Crowd(rng)
    for _ in range(3):
        crowd.add(stopped_under_load, paths, view)
    crowd.join()


def test_cold_reads_while_their_only_thread_is_about_to_end(layers, rng, monkeypatch):
    """With a depth of 1 nobody else can take over what is queued behind a thread that has left."""
    monkeypatch.setenv("OVERLAYBD_IDLE_MS", "1")
    (path, _), view = layers
    options = {"helpers": 0, "depth": 1}
    with scsi.Device([path], image_options=options) as device, open(path, "rb") as file:
        os.fsync(file.fileno())
        for _ in range(1000):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            lba = rng.randrange(scsi.MAPPED // 512 - 8)
            answer = device.ask(scsi.read_10(lba, 8), 4096)
            assert scsi.good(answer) == view[lba * 512 : lba * 512 + 4096]
            time.sleep(rng.random() * 0.0012)
        assert device.image.stats().blocked > 0
