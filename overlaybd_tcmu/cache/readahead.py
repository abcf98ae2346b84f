# SPDX-License-Identifier: Apache-2.0
"""
What to fetch before it is asked for: nothing for who jumps about, more and more for who goes on.

    misses:      u0   u1               two in a row: a stream
                      [ u2 u3 ]        fetched ahead, u2 marked
    u2 is read:       u2 u3 [ u4 .. u7 ]        twice as much, u4 marked: the reader never waits

Hits never come here, so the first unit of what was fetched ahead is marked in the core, which
reports its first read. A stream that is not read on costs what was fetched ahead of it, at most
LONGEST, and is forgotten when others take its place. Units, not bytes. Plain data, one thread's.
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
    mark: int = -1


class Streams:
    """Those of one blob; the one read last is the last."""

    def __init__(self, units: int, longest: int) -> None:
        self._units = units  # of the blob
        self._longest = max(longest, 1)  # units ahead at most
        self._streams: List[Stream] = []

    def missed(self, start: int, stop: int) -> Optional[Ahead]:
        """Units [start, stop) were missed."""
        stream = self._find(start, stop)
        if stream is None:
            self._streams = [*self._streams[1 - STREAMS :], Stream(stop)]
            return None
        if stop <= stream.stop:
            return None  # it overtook what is on its way
        stream.stop = stop
        return self._advance(stream)

    def reached(self, unit: int) -> Optional[Ahead]:
        """A marked unit was read."""
        for stream in self._streams:
            if stream.mark == unit:
                return self._advance(stream)
        return None

    def _find(self, start: int, stop: int) -> Optional[Stream]:
        for number, stream in enumerate(self._streams):
            if stream.stop - max(stream.window, 1) <= start <= stream.stop:
                self._streams.append(self._streams.pop(number))
                return stream
        return None

    def _advance(self, stream: Stream) -> Optional[Ahead]:
        stream.window = min(max(FIRST, 2 * stream.window), self._longest)
        start, stop = stream.stop, min(stream.stop + stream.window, self._units)
        if start >= stop:
            stream.mark = -1
            return None
        stream.stop, stream.mark = stop, start
        return Ahead(start, stop, start)
