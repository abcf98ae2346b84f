# SPDX-License-Identifier: Apache-2.0
"""
Which extents of which blobs to keep: two queues and a memory of what was let go.

    new ------> probation --read again--> protected --read since its last turn--> its end again
                    |                          |
                    `--not read again--.       `--not read--> evicted
                                       v
    came back <-- remembered (keys only, as many as are kept)
        `-------> protected

Whatever is read once, a scan of a whole disk or a long tail of files nobody looks at again, passes
through probation, a tenth of the room, and never displaces what is read time and again. "Again"
means: at least two epochs after the extent came, so that the reads of one start do not count as
several. This is S3-FIFO with the reads counted by the core (heat), not by us.

Plain data, no lock: its owner (store.py) has one.
"""

import collections
import dataclasses
from typing import Callable, Dict, Iterator, Optional, Tuple

Key = Tuple[str, int]  # digest, number of the extent

PROBATION = 10  # percent of the capacity
AGAIN = 2  # epochs


@dataclasses.dataclass
class Extent:
    """What is kept of one."""

    count: int  # bytes present
    since: int  # the epoch in which it came, or had its last turn
    protected: bool = False


class Policy:
    """Extents in the order in which their turn comes."""

    def __init__(self, capacity: int, extent: int) -> None:
        self.capacity = capacity  # bytes
        self.extent = extent  # bytes one may have
        self.used = 0
        self._probation: "collections.OrderedDict[Key, Extent]" = collections.OrderedDict()
        self._protected: "collections.OrderedDict[Key, Extent]" = collections.OrderedDict()
        self._in_probation = 0  # bytes
        self._remembered: "collections.OrderedDict[Key, None]" = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def keys(self) -> Iterator[Tuple[Key, bool]]:
        """(key, protected) of all, in the order in which load() wants them again."""
        yield from ((key, False) for key in self._probation)
        yield from ((key, True) for key in self._protected)

    def get(self, key: Key) -> Optional[Extent]:
        return self._probation.get(key) or self._protected.get(key)

    def add(self, key: Key, count: int, epoch: int, protected: bool = False) -> None:
        """count more bytes of an extent are here."""
        extent = self.get(key)
        if extent is None:
            came_back = key in self._remembered
            if came_back:
                del self._remembered[key]
            extent = Extent(0, epoch, protected or came_back)
            (self._protected if extent.protected else self._probation)[key] = extent
        count = min(count, self.extent - extent.count)  # some of it may have been here already
        extent.count += count
        self._account(extent, count)

    def shrink(self, key: Key, count: int) -> None:
        """count bytes of it are gone; with the last one it is."""
        extent = self.get(key)
        if extent is None:
            return
        count = min(count, extent.count)
        extent.count -= count
        self._account(extent, -count)
        if not extent.count:
            del (self._protected if extent.protected else self._probation)[key]

    def remove(self, key: Key) -> int:
        """The bytes it had."""
        extent = self._protected.pop(key, None) or self._probation.pop(key, None)
        if extent is None:
            return 0
        self._account(extent, -extent.count)
        return extent.count

    def victims(
        self,
        need: int,
        epoch: int,
        heat: Callable[[Key], int],
        keep: Callable[[Key], bool],
    ) -> Iterator[Tuple[Key, int]]:
        """
        Takes extents out until need bytes are free; what of them is to be freed. heat: the epoch of
        an extent's last read. keep: it is pinned. Fewer when nothing else may go.
        """
        freed = 0
        spared = 0  # in a row: when it is all that is protected, the rest of probation has to do
        # Each extent has at most one turn in each queue; more would be going round in circles.
        turns = 2 * len(self) + 1
        while freed < need and turns > 0 and len(self):
            turns -= 1
            limit = self.capacity * PROBATION // 100
            small = self._in_probation <= limit and spared < len(self._protected)
            queue = self._protected if small or not self._probation else self._probation
            taken = self._turn(queue, epoch, heat, keep)
            spared = 0 if taken else spared + 1
            if taken is not None:
                freed += taken[1]
                yield taken

    def _turn(
        self,
        queue: "collections.OrderedDict[Key, Extent]",
        epoch: int,
        heat: Callable[[Key], int],
        keep: Callable[[Key], bool],
    ) -> Optional[Tuple[Key, int]]:
        key, extent = queue.popitem(last=False)
        read_again = heat(key) >= extent.since + (1 if extent.protected else AGAIN)
        if read_again or keep(key):
            if not extent.protected:  # what is pinned as well, else it would crowd probation
                self._in_probation -= extent.count
                extent.protected = True
            extent.since = epoch
            (self._protected if extent.protected else self._probation)[key] = extent
            return None
        self._account(extent, -extent.count)
        if not extent.protected:
            self._remember(key)
        return key, extent.count

    def _remember(self, key: Key) -> None:
        self._remembered[key] = None
        while len(self._remembered) > max(64, len(self)):
            self._remembered.popitem(last=False)

    def _account(self, extent: Extent, count: int) -> None:
        self.used += count
        if not extent.protected:
            self._in_probation += count


def load(policy: Policy, found: Dict[Key, int], order: Iterator[Tuple[Key, bool]]) -> None:
    """
    Adds what a restart found, in the order of last time; what that does not name goes first, as
    nobody knows how long it has been there.
    """
    known = [(key, protected) for key, protected in order if key in found]
    named = {key for key, _ in known}
    for key in found:
        if key not in named:
            policy.add(key, found[key], 0)
    for key, protected in known:
        if policy.get(key) is None:
            policy.add(key, found[key], 0, protected)
