# SPDX-License-Identifier: Apache-2.0
"""The sink of the cache for a range: one that asks for it, one that does not; both count."""

from overlaybd_tcmu import units
from overlaybd_tcmu.cache import sink, store

PART = 64 * units.KiB
FIRST = 0, 4096
RANGE = PART, 3 * PART  # more than a buffer


class Asking(sink.Sink):
    """The cache's, which counts."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = 0

    def ask(self, *arguments):
        self.asked += 1
        return super().ask(*arguments)


class Ordinary(Asking):
    asks = False


class Cache:
    """A folder of its own for one blob."""

    def __init__(self, folder, digest, size):
        self._store = store.Store(str(folder), units.GiB, PART)
        self._entry = self._store.open(digest, size)

    def sink(self, kind, offset, count):
        return kind(self._store, self._entry, memoryview(bytearray(PART)), offset, count)

    def take(self, one, offset, count, kind=Asking):
        """A range of a blob, as readers find it, and how often it was asked for directly."""
        into = self.sink(kind, offset, count)
        one.read(offset, count, into)
        return self.content(offset, count), into.asked

    def content(self, offset, count):
        """What is there, which is to be fetched again."""
        buffer = bytearray(count)
        found = bytes(buffer[: self._entry.file.copy_into(buffer, offset)])
        self._entry.evict(offset, count)
        return found

    def close(self):
        self._store.give_back(self._entry)
        self._store.close()
