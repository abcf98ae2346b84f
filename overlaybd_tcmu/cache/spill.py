# SPDX-License-Identifier: Apache-2.0
"""
What the disk did not take: kept in memory beside the cache files, the oldest goes first.

A full disk makes reads slower and not fail. The bound is far above what one read can need at once,
so a read that waits for several ranges always gets on. `_lock` guards the queue and is held while
room is given back, so that nobody closes an entry in the middle of it; the core's locks are taken
under it, no others.
"""

import collections
import threading
from typing import Any, Deque, Tuple

from .. import units
from . import entry

LIMIT = 64 * units.MiB  # in all


class Spill:
    """Ranges of entries, in the order in which they came."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._ranges: Deque[Tuple[entry.Entry, int, int]] = collections.deque()
        self.used = 0  # bytes

    def put(self, one: entry.Entry, view: Any, offset: int) -> None:
        """Keeps whole granules in memory and wakes who waits for them; NativeError without any."""
        one.file.spill(view, offset)
        with self._lock:
            self._ranges.append((one, offset, len(view)))
            self.used += len(view)
            while self.used > self._limit and len(self._ranges) > 1:
                old, at, count = self._ranges.popleft()
                self.used -= count
                old.file.unspill(at, count)

    def forget(self, one: entry.Entry) -> None:
        """Nothing of this entry's is kept any more; it may be closed."""
        with self._lock:
            kept = [old for old in self._ranges if old[0] is not one]
            if len(kept) == len(self._ranges):
                return
            self._ranges = collections.deque(kept)
            self.used = sum(count for _, _, count in kept)
            one.file.unspill(0, one.size)
