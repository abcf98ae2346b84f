# SPDX-License-Identifier: Apache-2.0
"""Readers and writers that go on whatever becomes of the service, and how long they waited."""
import os
import random
import threading
import time

from guest import reads, writable

READ_BYTES = 4096
PAUSE_S = 0.002  # the service is to have some of the emulated CPU too


class _Reader(threading.Thread):
    """Reads 4 KiB here and there, around the page cache, compares, and times every read."""

    def __init__(self, disk, expected_path, seed):
        super().__init__(name=f"reader of {disk}", daemon=True)
        self.disk, self.expected_path = disk, expected_path
        self.generator = random.Random(seed)
        self.progress = threading.Condition()
        self.count = 0
        self.longest_s = 0.0
        self.problem = None
        self.stop = False

    def run(self):
        try:
            self._read_on()
        except OSError as error:
            self.problem = str(error)
        with self.progress:
            self.progress.notify_all()

    def _read_on(self):
        spans = reads.data_spans(self.expected_path)
        with open(self.expected_path, "rb") as expected, reads.DirectDisk(self.disk) as source:
            while not self.stop and not self.problem:
                start, length = self.generator.choice(spans)
                offset = start + self.generator.randrange(length) // READ_BYTES * READ_BYTES
                offset = min(offset, source.size - READ_BYTES)
                began = time.monotonic()
                got = source.read(offset, READ_BYTES)
                took_s = time.monotonic() - began
                if got != os.pread(expected.fileno(), READ_BYTES, offset):
                    self.problem = f"read {self.count} at {offset} has other bytes"
                with self.progress:
                    self.count += 1
                    self.longest_s = max(self.longest_s, took_s)
                    self.progress.notify_all()
                time.sleep(PAUSE_S)


class _Writer(threading.Thread):
    """fio writes blocks that carry their sums and reads them again, over and over."""

    def __init__(self, path, size, seed):
        super().__init__(name=f"writer of {path}", daemon=True)
        self.path, self.size, self.seed = path, size, seed
        self.rounds = 0
        self.problem = None
        self.stop = False

    def run(self):
        while not self.stop and not self.problem:
            done = writable.verify(self.path, self.size, self.seed + self.rounds)
            if done["status"]:
                self.problem = done["output"]
            self.rounds += 1


_readers = {}
_writers = {}


def start_reading(disk, expected_path, seed):
    _readers[disk] = _Reader(disk, expected_path, seed)
    _readers[disk].start()


def start_writing(path, size, seed):
    _writers[path] = _Writer(path, size, seed)
    _writers[path].start()


def wait_read(more, timeout_s=120):
    """Waits until each reader has done so many more reads; the longest that any took since last."""
    for reader in _readers.values():
        with reader.progress:
            wanted = reader.count + more
            done = reader.progress.wait_for(
                lambda: reader.count >= wanted or reader.problem, timeout_s
            )
        if not done or reader.problem:
            raise RuntimeError(f"{reader.disk}: {reader.count} of {wanted} reads: {reader.problem}")
    longest = max(reader.longest_s for reader in _readers.values())
    for reader in _readers.values():
        reader.longest_s = 0.0
    return longest


def stop(timeout_s=120):
    """Ends them all: reads, rounds of writing, and what went wrong."""
    workers = [*_readers.values(), *_writers.values()]
    for worker in workers:
        worker.stop = True
    for worker in workers:
        worker.join(timeout_s)
    hanging = [worker.name for worker in workers if worker.is_alive()]
    counted = {
        "reads": sum(reader.count for reader in _readers.values()),
        "rounds": sum(writer.rounds for writer in _writers.values()),
        "problems": [worker.problem for worker in workers if worker.problem] + hanging,
    }
    _readers.clear()
    _writers.clear()
    return counted
