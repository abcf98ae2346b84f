# SPDX-License-Identifier: Apache-2.0
"""
What to fetch before it is asked for: nothing for who jumps about, more and more for who goes on.

    misses:      u0   u1                      two in a row: a stream, a window of two
                      [ u2 u3 ]               fetched ahead, u2 marked
    u2 is read:          [ u3 .. u6 ]         the window doubles, u3 marked
    u3, u5, u9 ... are read                   until it is the longest; from then on a quarter of it
                                              is fetched whenever a quarter was read

Hits never come here, so the unit at which more is to be fetched is marked in the core, which
reports its first read; who comes there before its bytes do misses it, which tells the same. So the
requests of a stream are always under way while the bytes of earlier ones arrive. A stream that is
not read on costs what was fetched ahead of it, at most the longest window, and is forgotten when
others take its place. Units, not bytes. Plain data; refill.py has the lock.
"""

import dataclasses
from typing import List, NamedTuple, Optional

STREAMS = 8  # followed in one blob at the same time
FIRST = 2  # units ahead when a stream has shown itself


class Ahead(NamedTuple):
    """Fetch [start, stop); tell when unit mark is read."""

    start: int
    stop: int
    mark: int


@dataclasses.dataclass
class Stream:
    """Somebody who reads on."""

    stop: int  # everything before it is wanted, fetched or on its way
    window: int = 0  # units ahead, 0: not yet seen to go on
    mark: int = -1  # where the reader is to be before more is fetched


class Streams:
    """Those of one blob; the one read last is the last."""

    def __init__(self, units: int, longest: int) -> None:
        self._units = units  # of the blob
        self._longest = max(longest, 1)  # units ahead at most
        self._streams: List[Stream] = []

    def missed(self, start: int, stop: int) -> Optional[Ahead]:
        """Units [start, stop) were missed."""
        stream = self._find(start)
        if stream is None:
            self._streams = [*self._streams[1 - STREAMS :], Stream(stop)]
            return None
        stream.stop = max(stream.stop, stop)
        return self._advance(stream, stop - 1)

    def reached(self, unit: int) -> Optional[Ahead]:
        """A marked unit was read."""
        for stream in self._streams:
            if stream.mark == unit:
                return self._advance(stream, unit)
        return None

    def _find(self, start: int) -> Optional[Stream]:
        for number, stream in enumerate(self._streams):
            if stream.stop - max(stream.window, 1) - 1 <= start <= stream.stop:
                self._streams.append(self._streams.pop(number))
                return stream
        return None

    def _advance(self, stream: Stream, unit: int) -> Optional[Ahead]:
        """The reader is at this unit."""
        if unit < stream.mark:
            return None  # it waits for what is on its way
        stream.window = min(max(FIRST, 2 * stream.window), self._longest)
        start, stop = stream.stop, min(unit + 1 + stream.window, self._units)
        stream.mark = min(unit + max(1, stream.window // 4), self._units - 1)
        if start >= stop:
            return None
        stream.stop = stop
        return Ahead(start, stop, stream.mark)
