# SPDX-License-Identifier: Apache-2.0
"""
The store: one for all devices, its blobs keyed by digest and shared by the images that have them.

A blob in use is an Entry (entry.py), and there is one Entry for a digest, whoever uses it: two
would not know of each other's evictions. What is on disk of the others is known by their records
alone. What goes when room runs out is room.py's; what the disk does not take, spill.py's.

Locks: `_lock` guards the tables, for moments. `_opening` is held while an entry's files are opened,
made or removed, so that there is never a second one. Order: room's _trimming, `_opening`, room's
_lock, `_lock`. An entry's lock is taken under none but _trimming.
"""

import errno
import logging
import os
import threading
import time
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple, TypeVar

from .. import errors
from .. import log as rates
from .. import trace
from ..ffi import cachefile
from . import entry, folder, record, room, spill

log = logging.getLogger("cache.store")

_Result = TypeVar("_Result")

FULL_S = 5.0  # after the disk took nothing: how long it is not asked again


class Store:
    """open() entries, fill() them, give them back. Thread-safe."""

    def __init__(
        self,
        path: str,
        capacity: int,
        unit: int,
        clock: Callable[[], float] = time.monotonic,
        private: bool = False,
    ) -> None:
        """
        path: the cache's folder, made if it is missing; "": nothing is kept on disk. private: for
        who is gone before it would be worth being the keeper.
        """
        self.unit = unit
        self.misses = cachefile.Misses(unit)
        self.renewed: Callable[[], None] = lambda: None  # told when the folder was made again
        self._clock = clock
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._entries: Dict[str, entry.Entry] = {}
        self._numbers: Dict[int, entry.Entry] = {}
        self._next_number = 1
        self._full_until = -1.0
        self._limit = rates.RateLimit(burst=1, period_s=60)
        self._spill = spill.Spill()
        self.folder = folder.open_folder(path, private) if path else None
        self.room: Optional[room.Room] = None
        if self.folder is not None:
            limits = room.Limits(capacity, unit, clock)
            self.room = room.Room(self.folder, limits, self)
        self.tick()

    def close(self) -> None:
        """Every entry has been given back."""
        if self.folder is not None and self.room is not None:
            self.room.save()
            self.folder.close()
        self.misses.close()

    # -- entries

    def open(self, digest: str, size: int) -> entry.Entry:
        """The blob's entry, for give_back(). ImageError: it has another size."""
        with self._opening:
            one = self.hold(digest)
            if one is None:
                one = self._make(digest, size)
                with self._lock:
                    self._entries[digest] = self._numbers[one.number] = one
        if one.size != size:
            self.give_back(one)
            raise errors.ImageError(f"{digest}: {size} bytes, but it has {one.size}")
        return one

    def hold(self, digest: str) -> Optional[entry.Entry]:
        """The entry if somebody has it open, for give_back()."""
        with self._lock:
            return _held(self._entries.get(digest))

    def hold_number(self, number: int) -> Optional[entry.Entry]:
        """As hold(), by the number misses call it."""
        with self._lock:
            return _held(self._numbers.get(number))

    def hold_again(self, one: entry.Entry) -> None:
        """One user more, for who has it already."""
        with self._lock:
            one.users += 1

    def give_back(self, one: entry.Entry) -> None:
        """The last user closes it."""
        with self._lock:
            last = one.users == 1
        if last and self.room is not None:
            self.room.closing(one.digest)
        with self._lock:
            one.users -= 1
            if one.users:
                return
            del self._entries[one.digest], self._numbers[one.number]
        self._spill.forget(one)
        if self.room is not None and one.is_removed():
            self.room.forget(one.digest)
        one.close()

    def size_of(self, digest: str) -> Optional[int]:
        """Bytes of a blob that was opened before; None when nothing is known of it."""
        with self._lock:
            if digest in self._entries:
                return self._entries[digest].size
        try:
            path = self.folder.record_path(digest) if self.folder else "/nonexistent"
            kept = record.Record.open(path, writable=False)
        except (OSError, errors.FormatError):
            return None
        kept.close()
        return kept.size

    # -- bytes

    def fill(self, one: entry.Entry, view: Any, offset: int) -> None:
        """Keeps whole granules, on disk if it takes them; wakes who waits. NativeError: lost."""
        if one.on_disk and self._clock() >= self._full_until:
            try:
                return self._fill(one, view, offset)
            except errors.NativeError as error:
                self._not_taken(error)
        self._spill.put(one, view, offset)

    def receive(
        self,
        one: entry.Entry,
        coming: cachefile.Receiving,
        take: Callable[[cachefile.Receiving, bool], _Result],
    ) -> _Result:
        """
        What take(coming, fill) returns, which has it receive more. What the disk does not take, or
        is not asked to because it is full, stays in the buffer: for fill().
        """
        before = coming.filled
        asked = one.on_disk and self._clock() >= self._full_until
        try:
            return one.receive(coming, lambda: take(coming, asked))
        finally:
            if self.room is not None and not one.whole and coming.filled > before:
                self.room.added(one.digest, coming.offset + before, coming.filled - before)

    def trim(self) -> None:
        """Evicts what is too much; cheap when nothing is."""
        if self.room is not None:
            self.room.trim()

    def switch(self, one: entry.Entry, path: str) -> None:
        """A whole local copy takes the entry's place, whose room is given back. NativeError."""
        one.switch(path)
        trace.point("cache.switched")
        self._spill.forget(one)
        if self.folder is not None and self.room is not None and one.on_disk:
            self.folder.remove(one.digest)
            self.room.forget(one.digest)

    def remove(self, digest: str) -> None:
        """All of a blob, pinned or not. Whoever reads it fetches it again."""
        with self._opening:
            one = self.hold(digest)
            if one is None and self.folder is not None:
                self.folder.remove(digest)
        if one is not None:
            one.discard()
            self.give_back(one)
        if self.room is not None:
            self.room.forget(digest)

    # -- what is known of it

    def tick(self) -> None:
        """Tells the readers what time it is; to be called now and then."""
        if self.room is not None:
            self.misses.set_epoch(self.room.epoch())

    def digests(self) -> List[str]:
        """Of all blobs of which something is, or may be, here."""
        with self._lock:
            used = set(self._entries)
        return sorted(used | set(self.folder.digests() if self.folder else []))

    def in_memory(self) -> int:
        """Bytes that the disk did not take."""
        return self._spill.used

    def pinned(self) -> FrozenSet[str]:
        return self.room.pinned if self.room is not None else frozenset()

    def pin(self, digests: FrozenSet[str]) -> None:
        """These and no others are never evicted. OSError when that cannot be kept."""
        if self.folder is not None and self.room is not None:
            self.folder.pin(digests)
            self.room.pinned = digests

    # -- room's owner

    def evict(self, digest: str, ranges: List[Tuple[int, int]]) -> None:
        """Gives back (offset, count) of a blob."""
        one = self.hold(digest)
        if one is None:
            size = self.size_of(digest)
            if size is None:
                return self.drop(digest)
            one = self.open(digest, size)
        for offset, count in ranges:
            one.evict(offset, count)
        self.give_back(one)

    def heat(self, digest: str, offset: int, count: int) -> int:
        """The epoch of the range's last read; 0: not known."""
        with self._lock:  # what is in the table is not being closed
            one = self._entries.get(digest)
            return one.heat(offset, count) if one is not None else 0

    def drop(self, digest: str) -> None:
        """Nothing of the blob is left: its files, unless somebody has them open."""
        with self._opening, self._lock:
            if self.folder is not None and digest not in self._entries:
                self.folder.remove(digest)

    # -- inside

    def _fill(self, one: entry.Entry, view: Any, offset: int) -> None:
        try:
            one.fill(view, offset)
        except errors.NativeError as error:
            full = error.code in (errno.ENOSPC, errno.EDQUOT)
            if not full or self.room is None or not self.room.make(8 * len(view)):
                raise
            one.fill(view, offset)
        if self.room is not None and not one.whole:
            self.room.added(one.digest, offset, len(view))

    def _not_taken(self, error: errors.NativeError) -> None:
        if error.code == errno.EINVAL:
            raise error
        self._full_until = self._clock() + FULL_S
        allowed, _ = self._limit.allow("full")
        if allowed:
            log.error("the cache takes nothing more, reads go on from memory error=%s", error)

    def _make(self, digest: str, size: int) -> entry.Entry:
        number, self._next_number = self._next_number, self._next_number + 1
        kept = self._record(digest, size)
        if kept is not None and self.folder is not None:
            try:
                path = self.folder.data_path(digest)
                file = cachefile.CacheFile(self.misses, path, size, number)
                return entry.Entry(digest, number, file, kept, self.unit)
            except errors.NativeError as error:
                log.error("not cached digest=%s error=%s", digest, error)
                kept.close()
        file = cachefile.CacheFile(self.misses, "", size, number)
        return entry.Entry(digest, number, file, None, self.unit)

    def _record(self, digest: str, size: int) -> Optional[record.Record]:
        """What is known of the blob, or that nothing is; None when it cannot be kept on disk."""
        if self.folder is None or self.room is None:
            return None
        path = self.folder.record_path(digest)
        try:
            kept = record.Record.open(path)
            if kept.size == size and kept.digest == digest:
                return kept
            kept.close()
            log.warning("cache record of another blob dropped path=%s", path)
        except FileNotFoundError:
            pass
        except (OSError, errors.FormatError) as error:
            log.warning("cache record dropped error=%s", error)
        try:
            if not os.path.isdir(self.folder.blobs):
                log.warning("the cache's folder is gone, made again path=%s", self.folder.path)
                self.room.forget_all()
                self.folder.renew()
                self.renewed()
            self.folder.remove(digest)
            self.room.forget(digest)
            return record.Record.create(path, digest, size)
        except (OSError, folder.Locked) as error:
            log.error("not cached digest=%s error=%s", digest, error)
            return None


def _held(one: Optional[entry.Entry]) -> Optional[entry.Entry]:
    """With one user more; the tables' lock is held."""
    if one is not None:
        one.users += 1
    return one
