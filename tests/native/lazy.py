# SPDX-License-Identifier: Apache-2.0
"""
A lazily fetched image and the other side of its misses: a thread that fills what is asked for.

What it hands out can be held back, spoilt or refused, and every unit it fetches is counted.
"""

import collections
import concurrent.futures
import contextlib
import functools
import subprocess
import threading
import time

from overlaybd_tcmu.ffi import cachefile, native

from . import raw_layers as raw

UNIT = 16384
SECTOR = raw.SECTOR
SECTORS = 4096  # of the virtual disk
KINDS = ["raw", "tar", "lz4", "lz4-64k", "zstd-tar"]


def stream_of(rng, sectors):
    """(virtual disk, LSMT stream of it): every other 8 sectors are holes, half of it compresses."""
    data, index, disk = bytearray(), b"", bytearray(sectors * SECTOR)
    for sector in range(0, sectors, 16):
        part = rng.randbytes(4 * SECTOR) + bytes([sector // 16 % 255 + 1]) * (4 * SECTOR)
        index += raw.entry(sector, 8, 8 + len(data) // SECTOR)
        disk[sector * SECTOR : (sector + 8) * SECTOR] = part
        data += part
    return bytes(disk), raw.lsmt(bytes(data), index, virtual_size=len(disk))


class Origin:
    """The blobs, and the threads that feed cache files from them; leave it before closing files."""

    def __init__(self, folder, unit=UNIT, takers=1):
        self.folder = folder
        self.misses = cachefile.Misses(unit)
        self.fetched = collections.Counter()  # (file, offset of a unit)
        self.hints = []
        self.files = {}
        self.blobs = {}
        self.spoil = {}  # (file, offset) of a byte to flip -> how many times yet
        self.error = 0  # errno for whoever asks
        self.full = False  # nothing is written to files any more
        self.open = threading.Event()  # cleared: nothing is answered
        self.open.set()
        self._threads = [threading.Thread(target=self._run, name="origin") for _ in range(takers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self.misses.stop()
        self.open.set()
        for thread in self._threads:
            thread.join()
        for file in self.files.values():
            file.close()
        self.misses.close()

    def add(self, data):
        """The cache file of a new blob with this content."""
        number = len(self.blobs) + 1
        self.blobs[number] = data
        path = str(self.folder / f"blob{number}")
        file = cachefile.CacheFile(self.misses, path, len(data), number)
        self.files[number] = file
        return file

    def image(self, *contents, **options):
        """An image of layers with these contents, lowest first."""
        files = [self.add(data) for data in contents]
        return native.Image([native.Layer(file.blob(10000)) for file in files], **options)

    def bytes_of(self, number, offset, count):
        part = bytearray(self.blobs[number][offset : offset + count])
        for (file, at), left in list(self.spoil.items()):
            if file == number and offset <= at < offset + count and left:
                part[at - offset] ^= 0xFF
                self.spoil[file, at] = left - 1
        return part

    def _run(self):
        with contextlib.suppress(EOFError):
            while True:
                for miss in self.misses.next():
                    self.open.wait()
                    self._serve(miss)

    def _serve(self, miss):
        file = self.files[miss.file]
        if miss.kind == cachefile.MissKind.AHEAD:
            self.hints.append((miss.file, miss.offset))
            return
        if self.error:
            file.fail(miss.offset, miss.count, self.error)
            return
        for offset in range(miss.offset, miss.offset + miss.count, self.misses.unit):
            self.fetched[miss.file, offset] += 1
            part = self.bytes_of(miss.file, offset, self.misses.unit)
            if self.full:
                file.spill(part, offset)
            else:
                file.fill(part, offset)
        file.settle(miss.offset, miss.count)


@functools.lru_cache(maxsize=None)  # their checksums are computed in Python
def wrapped(kind, stream):
    """The stream as a layer of a kind."""
    if kind == "raw":
        return stream
    if kind == "tar":
        return raw.tar(stream)
    if kind == "zstd-tar":
        return raw.tar(raw.zfile(stream, algo=raw.ZSTD))
    return raw.zfile(stream, block_size=65536 if kind == "lz4-64k" else 4096)


def read_all(image, disk, step=65536):
    for offset in range(0, len(disk), step):
        assert image.pread(step, offset) == disk[offset : offset + step], offset


def read_randomly(image, disk, rng, times=50):
    for _ in range(times):
        offset = rng.randrange(len(disk) - 1)
        count = rng.choice((1, 512, 4096, 20000, 300000))
        count = min(count, len(disk) - offset)
        assert image.pread(count, offset) == disk[offset : offset + count]


def in_threads(count, work):
    """Runs work(number) in so many threads; the first failure is raised."""
    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        for future in [executor.submit(work, number) for number in range(count)]:
            future.result()


def wait_for(condition):
    """For what another thread is about to do; the test's time limit ends it."""
    while not condition():
        time.sleep(0.001)


@contextlib.contextmanager
def reading(image, count, offset):
    """A read under way on a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor.submit(image.pread, count, offset)


def remove_tree(path):
    """rm -rf, by the program users have."""
    subprocess.run(["rm", "-rf", str(path)], check=True)
