# SPDX-License-Identifier: Apache-2.0
"""
The native core's side of lazily fetched layers: what readers miss, and the local copies that are
filled for them. Handles as in native.py; ranges are (offset, count) in bytes and begin at multiples
of GRANULE.
"""

import array
import ctypes
import dataclasses
import enum
import errno
import os
import socket
import threading
from ctypes import c_char, c_uint32, c_uint64, c_void_p
from typing import Any, List, Optional, Sequence, Tuple

from . import core, native

GRANULE = 4096  # what is present or not; a file's last one may be shorter

_BATCH = 64


class MissKind(enum.IntEnum):
    READ = 1
    AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Miss:
    """struct obd_miss: whole units of a file, wanted (READ) or soon to be (AHEAD)."""

    file: int
    reader: int
    offset: int
    count: int
    kind: int


class Misses(native.Handle):
    """What the readers of all cache files want and do not find. Outlives the files."""

    def __init__(self, unit: int) -> None:
        """unit: bytes fetched at once, a power of two of at least GRANULE."""
        super().__init__()
        self.unit = unit
        ret = c_void_p()
        core.library().misses_create(unit, ctypes.byref(ret))
        self._address = ret.value

    def next(self, timeout_ms: int = -1) -> Optional[List[Miss]]:
        """
        Waits for some misses, each of which is to be settled; none when called; None after
        timeout_ms; EOFError once stopped. Any number of threads.
        """
        batch = (core.Miss * _BATCH)()
        count = core.library().misses_next(self.address, timeout_ms, batch, _BATCH)
        if count == -errno.ETIMEDOUT:
            return None
        if count < 0:
            raise EOFError("misses stopped")
        return [
            Miss(one.file, one.reader, one.offset, one.count, one.kind) for one in batch[:count]
        ]

    def takers(self) -> int:
        """How many threads wait in next(), and were not called."""
        return int(core.library().misses_takers(self.address))

    def call(self) -> bool:
        """Has one of them come; False: there is none, and who is about to wait will not."""
        return bool(core.library().misses_call(self.address))

    def stop(self) -> None:
        core.library().misses_stop(self.address)

    def set_epoch(self, epoch: int) -> None:
        """What heat() shows of units that are read from now on."""
        core.library().misses_set_epoch(self.address, epoch)

    def parked(self) -> int:
        """Readers that wait now."""
        return int(core.library().misses_parked(self.address))

    def _destroy(self, address: int) -> None:
        core.library().misses_destroy(address)


def punch(fd: int, offset: int, count: int) -> None:
    """Makes a hole in a file, where its file system can."""
    core.library().punch(fd, offset, count)


def _address_of(buffer: Any) -> Tuple[int, int]:
    """Where a writable buffer begins, and its bytes; the caller keeps the buffer."""
    count = memoryview(buffer).nbytes
    return ctypes.addressof((c_char * count).from_buffer(buffer)), count


class CacheFile(native.Handle):
    """The local, sparse copy of a remote blob. Blobs made from it keep it alive in the core."""

    def __init__(self, misses: Misses, path: str, size: int, number: int) -> None:
        """number: what misses call it. An empty path: memory only."""
        super().__init__()
        self.size = size
        ret = c_void_p()
        core.library().cachefile_open(
            misses.address,
            os.fsencode(path),
            size,
            number,
            ctypes.byref(ret),
            ctypes.byref(core.Error()),
        )
        self._address = ret.value
        self._misses = misses  # must outlive us

    def fill(self, buffer: Any, offset: int) -> "array.array[int]":
        """Writes whole granules, wakes who waits for them; their checksums. OSError: not taken."""
        address, count = _address_of(buffer)
        sums = array.array("I", bytes(4 * -(-count // GRANULE)))
        words = (c_uint32 * len(sums)).from_buffer(sums)
        core.library().cachefile_fill(self.address, address, count, offset, words)
        return sums

    def spill(self, buffer: Any, offset: int) -> None:
        """As fill, into memory beside the file."""
        address, count = _address_of(buffer)
        core.library().cachefile_spill(self.address, address, count, offset)

    def recover(self, offset: int, count: int, sums: Sequence[int]) -> int:
        """Makes present the granules whose bytes have these checksums (0: none); their number."""
        array = (c_uint32 * len(sums))(*sums)
        if len(sums) < -(-count // GRANULE):
            raise ValueError("a checksum for each granule is needed")
        return int(core.library().cachefile_recover(self.address, offset, count, array))

    def settle(self, offset: int, count: int) -> None:
        """A taken miss is done with; what is still missed of it is reported again."""
        core.library().cachefile_settle(self.address, offset, count)

    def fail(self, offset: int, count: int, error: int) -> None:
        """Whoever waits for bytes of the range gets this errno."""
        core.library().cachefile_fail(self.address, offset, count, error)

    def refuse(self, offset: int, count: int, error: int) -> None:
        """As fail, for those alone who open a layer; reads of images wait on."""
        core.library().cachefile_refuse(self.address, offset, count, error)

    def unexpect(self, offset: int, count: int) -> None:
        """Gives back the room made for a range that was asked for, but for what has come of it."""
        core.library().cachefile_unexpect(self.address, offset, count)

    def evict(self, offset: int, count: int) -> None:
        """Gives the room of a range back."""
        core.library().cachefile_evict(self.address, offset, count)

    def unspill(self, offset: int, count: int) -> None:
        """As evict, of what is in memory."""
        core.library().cachefile_unspill(self.address, offset, count)

    def switch(self, path: str) -> None:
        """From now on everything comes from the whole copy at path."""
        core.library().cachefile_switch(self.address, os.fsencode(path), ctypes.byref(core.Error()))

    def next_gap(self, offset: int) -> Optional[Tuple[int, int]]:
        """(start, end) of the next range from offset on that is not there; None: no more."""
        start, end = c_uint64(), c_uint64()
        found = core.library().cachefile_next_gap(
            self.address, offset, ctypes.byref(start), ctypes.byref(end)
        )
        return (start.value, end.value) if found else None

    def present(self) -> int:
        """Granules that are there."""
        return int(core.library().cachefile_present(self.address, 1, None))

    def present_in(self, parts: int) -> List[int]:
        """The same, of each of so many parts (1 to 65536) of about one size."""
        found = (c_uint32 * parts)()
        core.library().cachefile_present(self.address, parts, found)
        return list(found)

    def copy_into(self, buffer: Any, offset: int) -> int:
        """Copies what is present from offset on, up to the first gap; bytes."""
        address, count = _address_of(buffer)
        return int(core.library().cachefile_copy(self.address, address, count, offset))

    def heat(self, unit: int, count: int) -> List[int]:
        """The epoch in which each of count units was read last; 0: never."""
        array = (c_uint32 * count)()
        core.library().cachefile_heat(self.address, unit, count, array)
        return list(array)

    def mark(self, offset: int) -> None:
        """The next read of the unit at offset is reported, once."""
        core.library().cachefile_mark(self.address, offset)

    def blob(self, timeout_ms: int = -1) -> "CachedBlob":
        """For a layer; opening it waits for missing bytes until timeout_ms from now."""
        return CachedBlob(self, timeout_ms)

    def _destroy(self, address: int) -> None:
        core.library().cachefile_close(address)


def question(request: bytes, digest: str, etag: str, size: int) -> core.Ask:
    """For Receiving.ask(): a request for a range of a blob of size bytes, as it is sent."""
    return core.Ask(request, len(request), digest.encode(), etag.encode(), size)


class Receiving:
    """
    A range of a cache file on its way from a registry. One thread's, who keeps the file open.

    received   bytes of it that have come, from its beginning on; the user moves it, too
    filled     of these, what the readers have; the others are at the buffer's beginning
    refused    errno with which the file did not take the others, or 0
    """

    def __init__(self, file: CacheFile, buffer: memoryview, offset: int, count: int) -> None:
        """buffer: whole granules."""
        self.offset = offset
        self.count = count
        self._file = file
        self._buffer = buffer
        self._sums = array.array("I", bytes(4 * -(-count // GRANULE)))
        words = (c_uint32 * len(self._sums)).from_buffer(self._sums)
        self._state = core.Receive(*_address_of(buffer), count, offset, words)

    @property
    def received(self) -> int:
        return int(self._state.received)

    @received.setter
    def received(self, count: int) -> None:
        self._state.received = count

    @property
    def filled(self) -> int:
        return int(self._state.filled)

    @filled.setter
    def filled(self, count: int) -> None:
        self._state.filled = count

    @property
    def refused(self) -> int:
        return int(self._state.refused)

    @property
    def waited_s(self) -> float:
        """What the last receive() waited for the socket."""
        return int(self._state.waited_ns) / 1e9

    def room(self) -> memoryview:
        """Where what follows goes; empty when what is in the buffer has to be filled first."""
        if self.received < self.filled:  # of what an earlier host gave, nothing is needed
            return self._buffer[: self.filled - self.received]
        held = self.received - self.filled
        return self._buffer[held : self.count - self.filled]

    def held(self) -> memoryview:
        """What has come and was not filled."""
        return self._buffer[: max(self.received - self.filled, 0)]

    def ready(self) -> memoryview:
        """What of it is to be filled now; empty: it is to grow."""
        count = core.library().cachefile_ready(self._file.address, ctypes.byref(self._state))
        return self._buffer[:count]

    def took(self, count: int) -> None:
        """The readers have the first count bytes that were held."""
        left = self.held()[count:]
        self._buffer[: len(left)] = left
        self.filled += count

    def sums(self, start: int) -> "array.array[int]":
        """The checksums of what receive() filled from start, a multiple of GRANULE, on."""
        return self._sums[start // GRANULE : -(-self.filled // GRANULE)]

    def receive(self, fd: int, fill: bool, timeout_s: float) -> int:
        """
        Takes more of the range from a socket; fills the file whenever the buffer is full. Bytes; 0
        at the stream's end. socket.timeout when none came in time, OSError.
        """
        return self._checked(
            core.library().cachefile_receive(*self._arguments(fd, fill, timeout_s))
        )

    def ask(self, fd: int, question: core.Ask, fill: bool, timeout_s: float) -> bytes:
        """
        Sends a request for the range and takes as much as receive() does of a usual answer, whose
        head is question.head bytes long; else what came instead, b"" when the stream ended before.
        socket.timeout when no head came in time, OSError. Nothing of it is filled; what was
        received is forgotten.
        """
        self.received = 0
        arguments = self._arguments(fd, fill, timeout_s)
        self._checked(core.library().cachefile_ask(*arguments, ctypes.byref(question)))
        return bytes(self._buffer[: question.odd])

    def _arguments(self, fd: int, fill: bool, timeout_s: float) -> Tuple[Any, ...]:
        self._state.fill = fill
        self._state.timeout_ms = int(timeout_s * 1000) + 1
        return self._file.address, fd, ctypes.byref(self._state)

    @staticmethod
    def _checked(result: int) -> int:
        if result == -errno.EAGAIN:
            raise socket.timeout("timed out")
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


class CachedBlob(native.Blob):
    """
    A blob that is read through a cache file. `_guard` lets another thread cancel() while the blob
    is handed over or closed.
    """

    def __init__(self, file: CacheFile, timeout_ms: int) -> None:
        native.Handle.__init__(self)  # not Blob's, which opens a path
        self._guard = threading.Lock()
        ret = c_void_p()
        core.library().blob_cached(
            file.address, timeout_ms, ctypes.byref(ret), ctypes.byref(core.Error())
        )
        self._address = ret.value

    def cancel(self) -> None:
        """Ends the waiting of whoever opens a layer from it; harmless when nobody does any more."""
        with self._guard:
            if self._address is not None:
                core.library().blob_cancel(self._address)

    def release(self) -> int:
        with self._guard:
            return super().release()


def expire(image: native.Image, age_ms: int, error: int) -> int:
    """Those that have waited for age_ms end with this errno; their number."""
    return int(core.library().image_expire(image.address, age_ms, error))


def parked(image: native.Image) -> Tuple[int, int]:
    """How many requests wait for missing bytes, and for how many ms the oldest has."""
    oldest = c_uint64()
    count = core.library().image_parked(image.address, ctypes.byref(oldest))
    return int(count), oldest.value
