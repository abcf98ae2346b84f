# SPDX-License-Identifier: Apache-2.0
"""
Layers stacked and read as one disk.

    upper    --BB--0-
    lower    AAA--AA-
    view     AABB-A0-      for each sector the topmost layer that says something of it wins

What no layer says anything of, and what a zeroed segment covers, reads as zeros.
"""

import bisect
import errno
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple

from .. import errors, units
from . import lsmt

MAX_LAYERS = 255


def merge(layers: Sequence[Sequence[lsmt.Segment]]) -> List[lsmt.Segment]:
    """One run of segments, ascending and disjoint; tag is the layer's number, 0 the lowest."""
    merged: List[lsmt.Segment] = []
    for number, layer in enumerate(layers):
        upper = [segment._replace(tag=number) for segment in layer]
        merged = sorted(upper + list(_uncovered(merged, upper)))
    return merged


def _uncovered(lower: Iterable[lsmt.Segment], upper: List[lsmt.Segment]) -> Iterator[lsmt.Segment]:
    """What of lower is not hidden by upper."""
    ends = [segment.end for segment in upper]
    for segment in lower:
        start = segment.sector
        for above in upper[bisect.bisect_right(ends, start) :]:
            if above.sector >= segment.end:
                break
            if above.sector > start:
                yield segment.cut(start, above.sector)
            start = above.end
        if start < segment.end:
            yield segment.cut(start, segment.end)


class View:
    """Layers as one disk; layers[0] is the lowest. Their streams must stay open."""

    def __init__(self, layers: Sequence[lsmt.Layer]) -> None:
        if not 1 <= len(layers) <= MAX_LAYERS:
            reason = f"{len(layers)} layers, an image has 1 to {MAX_LAYERS}"
            raise errors.FormatError(errno.EINVAL, reason)
        self.layers = list(layers)
        self.segments = merge([layer.segments for layer in layers])
        self.size = next((layer.virtual_size for layer in layers[::-1] if layer.virtual_size), 0)
        if not self.size:
            raise errors.FormatError(errno.EINVAL, "virtual_size: no layer of the image states one")
        self._ends = [segment.end for segment in self.segments]

    @property
    def mapped(self) -> int:
        """Bytes that come from a layer."""
        return sum(s.length for s in self.segments if not s.zeroed) * units.SECTOR

    def pread(self, count: int, offset: int) -> bytes:
        """Bytes of the disk, at any alignment."""
        if count < 0 or offset < 0 or offset + count > self.size:
            reason = f"{count} bytes wanted of a disk of {self.size}"
            raise errors.FormatError(errno.EINVAL, reason, offset)
        data = bytearray(count)
        end = offset + count
        for segment in self._from(offset):
            start = max(offset, segment.sector * units.SECTOR)
            stop = min(end, segment.end * units.SECTOR)
            if start >= stop:
                break
            if not segment.zeroed:
                place = segment.msector * units.SECTOR + start - segment.sector * units.SECTOR
                stored = self.layers[segment.tag].stream.pread(stop - start, place)
                data[start - offset : stop - offset] = stored
        return bytes(data)

    def next_data(self, offset: int) -> Optional[Tuple[int, int]]:
        """[start, end) of the next range from offset on that a layer has; None: zeros only."""
        found: Optional[Tuple[int, int]] = None
        for segment in self._from(offset):
            start = max(offset, segment.sector * units.SECTOR)
            stop = min(self.size, segment.end * units.SECTOR)
            if start >= stop or (found and (segment.zeroed or start != found[1])):
                break
            if not segment.zeroed:
                found = (found[0] if found else start, stop)
        return found

    def _from(self, offset: int) -> Iterator[lsmt.Segment]:
        """The segments that end behind offset."""
        first = bisect.bisect_right(self._ends, offset // units.SECTOR)
        for number in range(first, len(self.segments)):
            yield self.segments[number]
