# SPDX-License-Identifier: Apache-2.0
"""
One blob of the cache while somebody uses it: its cache file in the core, its record on disk.

    fetched --fill()--> data written, readers woken --> record written --> counted by the store
    restart --recover()--> bytes that match the record count again, each unit looked at once
    evict() --> record cleared --> bits cleared, hole punched

What the disk does not take goes to memory, within the store's bound, and is not recorded. What a
download of the same blob has already may be borrowed: no byte is fetched for one and again for the
other.
"""

import logging
import threading
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, TypeVar

from .. import trace
from ..ffi import cachefile
from . import record, sources

log = logging.getLogger("cache.entry")

GRANULE = cachefile.GRANULE

_Result = TypeVar("_Result")

# Fills a view with the bytes at an offset, if it has them all.
Lender = Callable[[memoryview, int], bool]


class Entry:
    """
    Made and closed by the store. `_lock` guards `_looked_at` and the order of record and data: it
    is held across the writes of one fill or eviction, so that a record never names granules that
    were evicted after it was cleared. It is not held across a receive(), which looks afterwards
    what is still here. `_lending` is held while a lender lends: it is not closed meanwhile. No
    other locks are taken under them but those of the core.
    """

    def __init__(
        self,
        digest: str,
        number: int,
        file: cachefile.CacheFile,
        kept: Optional[record.Record],
        unit: int,
    ) -> None:
        self.digest = digest
        self.number = number
        self.file = file
        self.size = file.size
        self.users = 1  # under the store's lock
        self.sources = sources.Sources()
        self.whole = False  # a local copy has taken its place
        self.fetched = 0  # bytes, from registries; counters.py adds
        self._record = kept  # None: nothing of it is on disk
        self._unit = unit
        # Units recover() has been tried for: nothing is to be found in a record that is new.
        new = kept is None or kept.is_new
        self._looked_at = bytearray([new]) * (self.size // unit + 1)
        self._lock = threading.Lock()
        self._lending = threading.Lock()
        self._lender: Optional[Lender] = None

    def close(self) -> None:
        self.file.close()
        if self._record is not None:
            self._record.close()

    @property
    def on_disk(self) -> bool:
        return self._record is not None

    def is_removed(self) -> bool:
        """Its files are not where they were: somebody deleted them."""
        return self._record is not None and self._record.is_removed()

    def knows(self, source: str) -> bool:
        """A repository has given us this blob before."""
        return self._record is not None and source in self._record.sources

    def learn(self, source: str) -> None:
        """It did now."""
        if self._record is None or source in self._record.sources:
            return
        try:
            self._record.add_source(source)
        except OSError as error:
            log.warning("source not recorded digest=%s error=%s", self.digest, error.strerror)

    def recover(self, offset: int, count: int) -> int:
        """
        Counts what a former process left in these units, if it is intact; bytes. Each unit is
        looked at once: later its bytes may be known to be wrong although they match their record.
        """
        recovered = 0
        if all(self._looked_at[offset // self._unit : -(-(offset + count) // self._unit)]):
            return 0  # without the lock: what was looked at stays so
        with self._lock:
            if self._record is None or self.whole:
                return 0
            for at in range(offset - offset % self._unit, offset + count, self._unit):
                if self._looked_at[at // self._unit]:
                    continue
                recovered += self._recover_unit(at, min(self._unit, self.size - at))
                self._looked_at[at // self._unit] = 1  # now: others may find it here
        return recovered

    def _recover_unit(self, offset: int, count: int) -> int:
        assert self._record is not None
        try:
            sums = self._record.sums(offset, count)
        except OSError as error:
            log.warning("record not read digest=%s error=%s", self.digest, error.strerror)
            return 0
        if not any(sums):
            return 0
        granules = self.file.recover(offset, count, sums)
        named = sum(1 for one in sums if one)
        if granules < named:
            text = "damaged in the cache, fetched again digest=%s offset=%d granules=%d"
            log.warning(text, self.digest, offset, named - granules)
        return min(granules * GRANULE, count)

    def gap(self, offset: int, count: int) -> Optional[Tuple[int, int]]:
        """(offset, count) from the first to the last granule of the range that is missing."""
        found = self.gaps(offset, count)
        return (found[0][0], sum(found[-1]) - found[0][0]) if found else None

    def gaps(self, offset: int, count: int) -> List[Tuple[int, int]]:
        """
        (offset, count) of what is missing in the range, bit by bit. What lies between two bits is
        a unit at least: less than that is not worth a request of its own.
        """
        found: List[Tuple[int, int]] = []
        for start, end in self._missing(offset, count):
            if found and start - sum(found[-1]) < self._unit:
                start = found.pop()[0]
            found.append((start, end - start))
        return found

    def _missing(self, offset: int, count: int) -> Iterator[Tuple[int, int]]:
        """(start, end) of each range in this one that is not here."""
        at, end = offset, offset + count
        while at < end:
            gap = self.file.next_gap(at)
            if gap is None or gap[0] >= end:
                return
            start, at = max(gap[0], offset), min(gap[1], end)
            yield start, at

    def lend_from(self, lender: Optional[Lender]) -> None:
        """From now on this one is asked before the registry; None: nobody is."""
        with self._lending:
            self._lender = lender

    def borrow(self, view: memoryview, offset: int) -> bool:
        """Whether a lender filled the view."""
        with self._lending:
            return self._lender is not None and self._lender(view, offset)

    def fill(self, view: Any, offset: int) -> None:
        """Keeps whole granules on disk and wakes who waits for them. OSError: not taken."""
        with self._lock:
            sums = self.file.fill(view, offset)
            trace.point("cache.written")
            self._write_record(offset, sums)

    def receive(self, coming: cachefile.Receiving, take: Callable[[], _Result]) -> _Result:
        """What take() returns, which has it receive more; what that filled is recorded."""
        before = coming.filled
        try:
            return take()
        finally:
            if coming.filled > before:
                trace.point("cache.written")
                self._record_received(coming, before)

    def _record_received(self, coming: cachefile.Receiving, before: int) -> None:
        sums = coming.sums(before)
        start, count = coming.offset + before, coming.filled - before
        with self._lock:
            # What was evicted again while the rest was coming is not to be named.
            for first, end in self._missing(start, count):
                for granule in range((first - start) // GRANULE, -(-(end - start) // GRANULE)):
                    sums[granule] = 0
            self._write_record(start, sums)

    def _write_record(self, offset: int, sums: Sequence[int]) -> None:
        """Says what was filled; `_lock` is held."""
        if self._record is None or self.whole:
            return
        try:
            self._record.write(offset, sums)
        except OSError as error:  # it will not be known after a restart, and that is all
            log.warning("record not written digest=%s error=%s", self.digest, error.strerror)
        trace.point("cache.recorded")

    def evict(self, offset: int, count: int) -> None:
        """Gives the room of a range back."""
        count = min(count, self.size - offset)
        with self._lock:
            if self._record is None or self.whole or count <= 0:
                return
            try:
                self._record.clear(offset, count)
            except OSError as error:  # then it is a hole that does not match its checksum
                log.warning("record not cleared digest=%s error=%s", self.digest, error.strerror)
            trace.point("cache.cleared")
            self.file.evict(offset, count)
            trace.point("cache.evicted")

    def discard(self) -> None:
        """Nothing of what is here is to be believed."""
        with self._lock:
            self._looked_at = bytearray(b"\1" * len(self._looked_at))
        self.evict(0, self.size)
        self.file.unspill(0, self.size)

    def switch(self, path: str) -> None:
        """Everything comes from the whole copy at path; OSError when that cannot be."""
        self.file.switch(path)
        with self._lock:
            self.whole = True

    def present(self) -> int:
        """Bytes that are here."""
        return min(self.file.present() * GRANULE, self.size)

    def picture(self, parts: int) -> List[float]:
        """How much of each of so many parts is here, 0 to 1; of fewer if there are no more."""
        granules = -(-self.size // GRANULE)
        parts = max(min(parts, granules), 1)
        bounds = [granules * part // parts for part in range(parts + 1)]
        found = self.file.present_in(parts)
        return [
            count / max(stop - first, 1) for count, first, stop in zip(found, bounds, bounds[1:])
        ]

    def heat(self, offset: int, count: int) -> int:
        """The epoch of the last read in the range; 0: none since it was opened."""
        first = offset // self._unit
        last = (min(offset + count, self.size) - 1) // self._unit
        if last < first:
            return 0
        found: List[int] = self.file.heat(first, last - first + 1)
        return max(found)
