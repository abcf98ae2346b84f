# SPDX-License-Identifier: Apache-2.0
"""
How much room the cache takes, and who has to go when it is too much.

Room is counted in extents: a unit (refillSize), or more in a large cache, so that there are never
more than some 65,000. Past the high mark, or when others fill the file system, extents are evicted
in policy.py's order down to the low one, by whoever has just filled something; readers never do.

Locks: `_lock` guards the policy and the counts, for moments, never across I/O. `_trimming` is held
by the one thread that evicts, across it. Taken in the order _trimming, _lock; the owner's locks
under _trimming, and under _lock the one that heat() takes.
"""

import collections
import dataclasses
import logging
import os
import stat
import threading
import time
from typing import Callable, Counter, Dict, FrozenSet, Iterator, List, Protocol, Set, Tuple

from .. import units
from ..ffi import cachefile
from . import folder, policy

log = logging.getLogger("cache.room")

EXTENTS = 65536
LEAST = 64  # units a cache holds; fewer would evict what was fetched a moment ago
HIGH, LOW = 95, 90  # percent of the capacity
RESERVE = 1 * units.GiB  # of the file system, left to others; at most a tenth of it
LOOK_S = 1.0  # between two looks at the file system
EPOCH_S = 10.0
LOST = 1 * units.MiB  # of a file, worth looking for


class Owner(Protocol):
    """Who can do what room only decides."""

    def evict(self, digest: str, ranges: List[Tuple[int, int]]) -> None:
        """Give back (offset, count) of a blob."""

    def heat(self, digest: str, offset: int, count: int) -> int:
        """The epoch of the range's last read; 0: not known."""

    def drop(self, digest: str) -> None:
        """Nothing of the blob is left."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much, in which pieces, by which clock."""

    capacity: int  # bytes
    unit: int  # bytes
    clock: Callable[[], float] = time.monotonic


class Room:
    """Thread-safe."""

    def __init__(self, place: folder.Folder, limits: Limits, owner: Owner) -> None:
        capacity = max(limits.capacity, LEAST * limits.unit)
        self.extent = limits.unit
        while self.extent * EXTENTS < capacity:
            self.extent *= 2
        self.capacity = capacity
        self._least = limits.unit
        self._folder = place
        self._owner = owner
        self._clock = limits.clock
        self._started = limits.clock()
        self._lock = threading.Lock()
        self._trimming = threading.Lock()
        self._policy = policy.Policy(capacity, self.extent)
        self._extents: Dict[str, Set[int]] = {}  # of each digest that has any
        self._heat: Dict[policy.Key, int] = {}  # of blobs that nobody has open
        self._originals = list(place.originals())
        self._looked = 0.0
        self.evicted = 0  # bytes since the start
        self.pinned: FrozenSet[str] = place.pinned()
        self._find_what_is_there()

    def epoch(self) -> int:
        """What time it is, in turns of the policy."""
        return 1 + int((self._clock() - self._started) / EPOCH_S)

    def used(self) -> int:
        """Bytes."""
        with self._lock:
            return self._policy.used + sum(size for _, size in self._originals)

    def used_by(self, digest: str) -> int:
        """Bytes."""
        with self._lock:
            extents = (self._policy.get(key) for key in self._keys(digest))
            return sum(extent.count for extent in extents if extent)

    def added(self, digest: str, offset: int, count: int) -> None:
        """Bytes of a blob are on disk now."""
        epoch, end, extent = self.epoch(), offset + count, self.extent
        numbers = range(offset // extent, -(-end // extent))
        with self._lock:
            self._extents.setdefault(digest, set()).update(numbers)
            for number in numbers:
                part = min(end, (number + 1) * extent) - max(offset, number * extent)
                self._policy.add((digest, number), part, epoch)

    def forget(self, digest: str) -> None:
        """Nothing of a blob is on disk any more."""
        with self._lock:
            for key in list(self._keys(digest)):
                self._policy.remove(key)
                self._heat.pop(key, None)
            self._extents.pop(digest, None)

    def forget_all(self) -> None:
        """The folder is gone."""
        with self._lock:
            self._policy = policy.Policy(self.capacity, self.extent)
            self._extents.clear()
            self._heat.clear()
            self._originals.clear()

    def closing(self, digest: str) -> None:
        """What the core knows of its reads is about to be lost."""
        with self._lock:
            for key in self._keys(digest):
                self._heat[key] = self._heat_of(key)

    def trim(self) -> None:
        """Evicts what is too much; cheap when nothing is."""
        need = self._excess()
        if need and self._trimming.acquire(blocking=False):
            try:
                self._evict(need)
            finally:
                self._trimming.release()

    def make(self, count: int) -> bool:
        """Room for count bytes, whatever the marks say. False: nothing was left to evict."""
        return self.free(count) > 0

    def free(self, count: int) -> int:
        """Evicts so many bytes if there are any that may go; how many it was."""
        with self._trimming:
            return self._evict(count)

    def resize(self, capacity: int) -> None:
        """Another capacity in bytes; what is too much then goes with the next trim()."""
        with self._lock:
            self.capacity = max(capacity, LEAST * self._least)
            self._policy.capacity = self.capacity

    def save(self) -> None:
        """Remembers the order for next time."""
        with self._lock:
            lines = [f"{key[0]} {key[1]} {int(kept)}" for key, kept in self._policy.keys()]
        try:
            self._folder.write_order(lines)
        except OSError as error:
            log.warning("order of the cache not kept error=%s", error.strerror)

    # -- inside

    def _keys(self, digest: str) -> Iterator[policy.Key]:
        for number in self._extents.get(digest, ()):
            yield digest, number

    def _heat_of(self, key: policy.Key) -> int:
        known = self._owner.heat(key[0], key[1] * self.extent, self.extent)
        return max(known, self._heat.get(key, 0))

    def _excess(self) -> int:
        """Bytes that have to go."""
        used = self.used()
        need = used - self.capacity * LOW // 100 if used > self.capacity * HIGH // 100 else 0
        now = self._clock()
        if now - self._looked >= LOOK_S:
            self._looked = now
            need = max(need, min(used, self._lacking()))
        return need

    def _lacking(self) -> int:
        """Bytes the file system has less than the reserve."""
        try:
            disk = os.statvfs(self._folder.path)
        except OSError:
            return 0
        reserve = min(RESERVE, disk.f_blocks * disk.f_frsize // 10)
        return max(0, reserve - disk.f_bavail * disk.f_frsize)

    def _evict(self, need: int) -> int:
        """Frees need bytes if it can; how many it was. _trimming is held."""
        freed = 0
        while self._originals and freed < need:
            path, size = self._originals.pop()
            folder.unlink(path)
            freed += size
        with self._lock:
            taken = list(self._victims(need - freed))
        by_digest: Dict[str, List[Tuple[int, int]]] = {}
        for (digest, number), _ in taken:
            by_digest.setdefault(digest, []).append((number * self.extent, self.extent))
        for digest, ranges in by_digest.items():
            self._owner.evict(digest, ranges)
            with self._lock:
                gone = digest not in self._extents
            if gone:
                self._owner.drop(digest)
        freed += sum(count for _, count in taken)
        with self._lock:
            self.evicted += freed
        log.debug("evicted need=%d freed=%d extents=%d", need, freed, len(taken))
        return freed

    def _victims(self, need: int) -> Iterator[Tuple[policy.Key, int]]:
        pinned = self.pinned
        for key, count in self._policy.victims(
            need, self.epoch(), self._heat_of, lambda one: one[0] in pinned
        ):
            self._extents[key[0]].discard(key[1])
            if not self._extents[key[0]]:
                del self._extents[key[0]]
            self._heat.pop(key, None)
            yield key, count

    # -- start

    def _find_what_is_there(self) -> None:
        started = time.monotonic()
        self._folder.remove_strays()
        found: Dict[policy.Key, int] = {}
        for digest in self._folder.digests():
            for number, count in self._allocated(self._folder.data_path(digest)):
                found[digest, number] = count
        policy.load(self._policy, found, self._order())
        for digest, number in found:
            self._extents.setdefault(digest, set()).add(number)
        elapsed_ms = (time.monotonic() - started) * 1000
        text = "cache opened path=%s used=%d capacity=%d extents=%d elapsed_ms=%.1f"
        log.info(text, self._folder.path, self.used(), self.capacity, len(found), elapsed_ms)

    def _order(self) -> Iterator[Tuple[policy.Key, bool]]:
        for line in self._folder.order():
            parts = line.split()
            if len(parts) == 3 and parts[1].isdigit():
                yield (parts[0], int(parts[1])), parts[2] == "1"

    def _allocated(self, path: str) -> Iterator[Tuple[int, int]]:
        """(extent, bytes) of a data file, by what the file system says of it."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            counts: Counter[int] = collections.Counter()
            runs = list(_data_of(fd))
            _give_back(fd, path, runs)
            for start, end in runs:
                while start < end and len(counts) < 2 * EXTENTS:
                    number = start // self.extent
                    part = min(end, (number + 1) * self.extent) - start
                    counts[number] += part
                    start += part
            yield from counts.items()
        finally:
            os.close(fd)


def _give_back(fd: int, path: str, runs: List[Tuple[int, int]]) -> None:
    """What a process that was killed had made room for, and not filled: it is in no run of data."""
    status = os.fstat(fd)
    lost = status.st_blocks * 512 - sum(end - start for start, end in runs)
    if lost < LOST:
        return
    log.info("room that nothing came to is given back path=%s count=%d", path, lost)
    ends = [0, *(end for _, end in runs)]
    starts = [*(start for start, _ in runs), status.st_size]
    for end, start in zip(ends, starts):
        if end < start:
            cachefile.punch(fd, end, start - end)


def _data_of(fd: int) -> Iterator[Tuple[int, int]]:
    """(start, end) of each run of a sparse file that is no hole."""
    status = os.fstat(fd)
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        yield start, end
