# SPDX-License-Identifier: Apache-2.0
"""Reads of a disk around the page cache, compared with a file that holds what it should say."""
import errno
import hashlib
import mmap
import os
import random
import threading
import time

CHUNK_BYTES = 1 << 20
SECTOR_BYTES = 512


class DirectDisk:
    """Sector-aligned reads through one page-aligned buffer."""

    def __init__(self, disk):
        self.buffer = mmap.mmap(-1, 2 * CHUNK_BYTES)
        self.fd = os.open(f"/dev/{disk}", os.O_RDONLY | os.O_DIRECT)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        os.close(self.fd)

    def read(self, offset, count):
        with memoryview(self.buffer) as view:
            with view[:count] as part:
                got = os.preadv(self.fd, [part], offset)
                return bytes(part[:got])


def compare_mapped(disk, expected_path):
    """Every byte that some layer has, and what lies around; how many, and which differ first."""
    expected = os.open(expected_path, os.O_RDONLY)
    count = 0
    with DirectDisk(disk) as source:
        for offset, length in _chunks(data_spans(expected_path), source.size):
            if source.read(offset, length) != os.pread(expected, length, offset):
                return {"differs_in": [offset, length]}
            count += length
        os.close(expected)
        return {"size": source.size, "bytes": count, "differs_in": None}


def _chunks(spans, size):
    """The spans with up to a MiB before and after, cut into pieces of at most a MiB."""
    done = 0
    for start, length in spans:
        offset = max(start - CHUNK_BYTES, done)
        end = done = min(start + length + CHUNK_BYTES, size)
        while offset < end:
            yield offset, min(CHUNK_BYTES, end - offset)
            offset += CHUNK_BYTES


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(CHUNK_BYTES)
            if not data:
                return digest.hexdigest()
            digest.update(data)


def compare_random(disk, expected_path, seed, count):
    """Reads of 1 to 2048 sectors at random sectors in or near what has data."""
    spans = data_spans(expected_path)
    generator = random.Random(seed)
    expected = os.open(expected_path, os.O_RDONLY)
    bytes_read = 0
    with DirectDisk(disk) as source:
        for number in range(count):
            offset, length = _pick(generator, spans, source.size)
            if source.read(offset, length) != os.pread(expected, length, offset):
                return {"differs_in": [number, offset, length]}
            bytes_read += length
    os.close(expected)
    return {"differs_in": None, "bytes": bytes_read}


def _pick(generator, spans, size):
    start, length = generator.choice(spans)
    near = start + generator.randrange(-64 * 1024, length + 64 * 1024)
    offset = min(max(near, 0), size - SECTOR_BYTES) // SECTOR_BYTES * SECTOR_BYTES
    sectors = generator.choice((generator.randint(1, 9), generator.randint(10, 2048)))
    return offset, min(sectors * SECTOR_BYTES, size - offset)


def data_spans(path):
    """Where a sparse file has data: [[offset, length], ...]."""
    spans = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: no data beyond end
                return spans
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            spans.append([start, min(end, size) - start])


class _Reader(threading.Thread):
    """Reads a file in the background."""

    def __init__(self, path):
        super().__init__(name=f"reader of {path}", daemon=True)
        self.path = path
        self.outcome = None

    def run(self):
        started = time.monotonic()
        try:
            self.outcome = {"sha256": _digest(self.path)}
        except OSError as error:
            self.outcome = {"errno": error.errno}
        self.outcome["seconds"] = time.monotonic() - started


_readers = {}


def start_reading(path):
    """A read in the background; finish_reading(path) gives its digest."""
    reader = _Reader(path)
    _readers[path] = reader
    reader.start()


def wait_blocked(what, timeout_s=30):
    """
    Waits until the reader of a file, or the comparer of a disk, sleeps in the kernel and goes on
    to: state D.
    """
    reader = _readers.get(what) or _comparers[what]
    thread = reader.native_id
    deadline = time.monotonic() + timeout_s
    seen = 0
    while time.monotonic() < deadline:
        with open(f"/proc/self/task/{thread}/stat") as file:
            seen = seen + 1 if file.read().rpartition(")")[2].split()[0] == "D" else 0
        if seen == 20:
            return
        time.sleep(0.01)
    raise TimeoutError(f"the reader of {what} does not wait for the disk: {reader.outcome}")


def finish_reading(path, timeout_s=30):
    reader = _readers.pop(path)
    reader.join(timeout_s)
    if reader.is_alive():
        raise TimeoutError(f"{path} still being read after {timeout_s} s")
    return reader.outcome


class _Comparer(threading.Thread):
    """
    Random reads in the background, each compared at once, until told to stop, an error or a
    difference.
    """

    def __init__(self, disk, expected_path, seed):
        super().__init__(name=f"comparer of {disk}", daemon=True)
        self.disk = disk
        self.expected_path = expected_path
        self.generator = random.Random(seed)
        self.progress = threading.Condition()
        self.count = 0
        self.stop = False
        self.outcome = {"differs_in": None, "errno": None}

    def run(self):
        spans = data_spans(self.expected_path)
        expected = os.open(self.expected_path, os.O_RDONLY)
        try:
            with DirectDisk(self.disk) as source:
                while not self.stop:
                    offset, length = _pick(self.generator, spans, source.size)
                    got = source.read(offset, length)
                    if len(got) < length:  # what a disk that has gone says: it ends here
                        self.outcome["errno"] = errno.ENODEV
                        return
                    if got != os.pread(expected, length, offset):
                        self.outcome["differs_in"] = [self.count, offset, length]
                        return
                    with self.progress:
                        self.count += 1
                        self.progress.notify_all()
        except OSError as error:
            self.outcome["errno"] = error.errno
        finally:
            os.close(expected)
            with self.progress:
                self.progress.notify_all()


_comparers = {}


def start_comparing(disk, expected_path, seed):
    comparer = _Comparer(disk, expected_path, seed)
    _comparers[disk] = comparer
    comparer.start()


def wait_compared(disk, more, timeout_s=30):
    """Waits until that many more reads have been compared."""
    comparer = _comparers[disk]
    with comparer.progress:
        wanted = comparer.count + more
        if not comparer.progress.wait_for(lambda: comparer.count >= wanted, timeout_s):
            raise TimeoutError(f"{disk}: {comparer.count} of {wanted} reads, {comparer.outcome}")


def stop_comparing(disk, timeout_s=30):
    _comparers[disk].stop = True
    return finish_comparing(disk, timeout_s)


def finish_comparing(disk, timeout_s=30):
    """Waits for an end it comes to by itself: a read that fails."""
    comparer = _comparers.pop(disk)
    comparer.join(timeout_s)
    if comparer.is_alive():
        raise TimeoutError(f"{disk}: the comparer hangs after {comparer.count} reads")
    return dict(comparer.outcome, count=comparer.count)
